"""Page, review form and HTTP API with users of two roles, each behind a proxy; a stub answers."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import demo

demo.stay_local()

from eval.asking import answers  # noqa: E402
from eval.rating import form as review_page  # noqa: E402
from eval.rating.desk import Desk, select  # noqa: E402
from eval.rating.store import Store  # noqa: E402
from skingpt4.chat.texts import load  # noqa: E402
from skingpt4.server import gradio_app  # noqa: E402  (Gradio reads the environment on import)
from skingpt4.server.access.logins import Access  # noqa: E402
from skingpt4.server.access.users import PAGE_ROLES, REVIEW_ROLES, Users  # noqa: E402
from skingpt4.server.audit import AuditLog  # noqa: E402
from skingpt4.server.http.response import Usage  # noqa: E402
from skingpt4.server.http.routes import Api, make_app  # noqa: E402
from skingpt4.server.http.server import served  # noqa: E402
from tests.support.page_driver import TIMEOUT_MS  # noqa: E402
from tests.support.page_stub import Stub, tools  # noqa: E402
from tests.support.ports import free_port  # noqa: E402
from tests.support.proxies import NAME, PATHS  # noqa: E402
from tests.support.review_run import make_run  # noqa: E402

PASSWORD = "correct horse battery"
GATE = threading.Event()  # closed while a test looks at the beginning of an answer
GATE.set()


class Paced(Stub):
    """Waits after each word while the gate is closed."""

    def stream(self, question, generation):
        for word in super().stream(question, generation):
            yield word
            GATE.wait(TIMEOUT_MS / 1000)


class PacedAnswer:
    """What the HTTP API needs of an `Answer`."""

    def __init__(self, request: Any) -> None:
        self.stream, self.include_usage, self.usage = request.stream, request.include_usage, Usage(1, 1)
        self.finish_reason = "stop"

    def num_pixels(self):
        return []

    def start(self):
        for word in ("it ", "is"):
            yield word
            GATE.wait(TIMEOUT_MS / 1000)

    def extension(self):
        return {}

    def prepare(self):
        return None

    check_time = stop = time_out = end = prepare


@dataclass(frozen=True)
class Hospital:
    """The servers' ports by their names in PATHS, and the audit log that all write to."""

    ports: dict[str, int]
    log: Path


@contextmanager
def hospital(folder: Path, users: Mapping[str, str], **more: Any) -> Iterator[Hospital]:
    """Serve all three.

    Args:
        folder: for users, ratings and the audit log; uploads go where GRADIO_TEMP_DIR says.
        users: the role of each user, all with PASSWORD.
        more: of the page's `Tools`.
    """
    addresses = {
        name: demo.Address(port=free_port(), names=(NAME,), root_path=path, proxies=("127.0.0.1",))
        for name, path in PATHS.items()
    }
    file, log = Users(folder / "users.json"), AuditLog(folder / "audit.sqlite")
    for name, role in users.items():
        file.add(name, role, PASSWORD)

    def access(roles: Collection[str]) -> Access:
        return Access(
            file.check,
            lambda name: file.stamp(name, roles),
            True,
            lambda name: name in file.all(),
            log=log.append,
        )

    page = demo.launch(tools(Paced, log=log.append, **more), addresses["page"], access=access(PAGE_ROLES))
    run = answers.read_run(make_run(folder / "run"))
    desk = Desk(Store(run.folder), select(run, run.folder, None, None))
    review = gradio_app.launch(
        review_page.build(desk), addresses["review"], {"status": "ok"}, load(), css=review_page.CSS,
        head=review_page.SCRIPT, access=access(REVIEW_ROLES),
    )  # fmt: skip
    answerer = SimpleNamespace(
        identity={"checkpoint": "run/1"}, about={}, fingerprint="x", context=2048, new_answer=PacedAnswer
    )
    try:
        with served(make_app(Api(answerer, key=PASSWORD), addresses["api"]), port=addresses["api"].port):
            yield Hospital({name: address.port for name, address in addresses.items()}, log.path)
    finally:
        page.close(verbose=False)
        review.close(verbose=False)
