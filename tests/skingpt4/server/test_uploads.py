"""A page's functions get only files that the same browser uploaded: raw requests to the real server."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from starlette.requests import Request

import demo
from skingpt4.chat import texts
from skingpt4.server import address as server_address
from skingpt4.server import gradio_app, uploads

server_address.stay_local()

import gradio as gr  # noqa: E402  (it reads the environment when it is imported)

from eval.asking import answers  # noqa: E402
from eval.rating import form as review_page  # noqa: E402
from eval.rating.desk import Desk, select  # noqa: E402
from eval.rating.store import Store  # noqa: E402
from tests.support.gradio_page import Page  # noqa: E402
from tests.support.page_stub import tools  # noqa: E402
from tests.support.ports import free_port  # noqa: E402
from tests.support.review_run import make_run  # noqa: E402

META = {"_type": "gradio.FileData"}
LEAK = "leak.example.org"


def png(colour: str = "tan") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(out, "PNG")
    return out.getvalue()


def address() -> demo.Address:
    return demo.Address(port=free_port())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """The upload folder of both servers."""
    with pytest.MonkeyPatch.context() as patch:
        made = tmp_path_factory.mktemp("gradio")
        patch.setenv("GRADIO_TEMP_DIR", str(made))
        yield made


@pytest.fixture(scope="module")
def served(folder) -> Iterator[str]:
    where = address()
    blocks = demo.launch(tools(), where)
    yield f"http://127.0.0.1:{where.port}"
    blocks.close(verbose=False)


@pytest.fixture(scope="module")
def form(folder, tmp_path_factory) -> Iterator[str]:
    """The review form; the login is left out, since it comes before all that is tested here."""
    run = answers.read_run(make_run(tmp_path_factory.mktemp("run"), num_cases=2))
    desk, where = Desk(Store(run.folder), select(run, run.folder, None, None)), address()
    blocks = gradio_app.launch(review_page.build(desk), where, {"status": "ok"}, texts.load())
    yield f"http://127.0.0.1:{where.port}"
    blocks.close(verbose=False)


@pytest.fixture
def outside(tmp_path) -> Path:
    """Another patient's picture elsewhere on this machine."""
    path = tmp_path / "patient.png"
    path.write_bytes(png("brown"))
    return path


@pytest.fixture
def looked_up(monkeypatch) -> list[str]:
    """The names of hosts that somebody in this process looks up, the server too."""
    real, names = socket.getaddrinfo, []

    def noted(host, *more, **named):
        names.append(str(host))
        return real(host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", noted)
    return names


def uploaded(page: Page, name: str = "photo.png") -> str:
    (path,) = page.upload(png(), name).raise_for_status().json()
    return path


def replaced(path: str, make: Callable[[Path], None]) -> str:
    Path(path).unlink()
    make(Path(path))
    return path


def says(shown: dict[str, str], key: str) -> bool:
    """Whether the page's note is this one, in either language."""
    return any(texts.load(code)[key] in shown["note"] for code in texts.languages())


def with_dots(path: str) -> str:
    folder, name = os.path.split(path)
    return f"{folder}/../{os.path.basename(folder)}/{name}"


# What a request may say that is not an honest upload: given an open page and a file outside, a file as Gradio has it.
FOREIGN = {
    "any file": lambda page, outside: {"path": str(outside)},
    "with its name": lambda page, outside: {"path": str(outside), "orig_name": "photo.png"},
    "as a stream": lambda page, outside: {"path": str(outside), "is_stream": True},
    "dots": lambda page, outside: {"path": f"{Path(uploaded(page)).parent}{'/..' * 20}{outside}"},
    "dots to a neighbour": lambda page, outside: {"path": f"{Path(uploaded(page)).parent}/../{outside.name}"},
    "dots to its own": lambda page, outside: {"path": with_dots(uploaded(page))},
    "relative": lambda page, outside: {"path": os.path.relpath(outside)},
    "a link": lambda page, outside: {"path": replaced(uploaded(page), lambda p: p.symlink_to(outside))},
    "a pipe": lambda page, outside: {"path": replaced(uploaded(page), os.mkfifo)},
    "a folder": lambda page, outside: {"path": str(Path(uploaded(page)).parent)},
    "another's upload": lambda page, outside: {"path": uploaded(Page(str(page.http.base_url)), "other.png")},
    "http": lambda page, outside: {"path": f"http://{LEAK}/?name=X"},
    "https": lambda page, outside: {"path": f"https://{LEAK}/?name=X", "is_stream": True},
    "file:": lambda page, outside: {"path": f"file://{outside}"},
    "a foreign url": lambda page, outside: {"path": uploaded(page), "url": f"http://{LEAK}/x.png"},
    "a foreign url without scheme": lambda page, outside: {"path": uploaded(page), "url": f"//{LEAK}/x.png"},
    "a file as url": lambda page, outside: {"path": uploaded(page), "url": f"file://{outside}"},
    "another port as url": lambda page, outside: {"path": uploaded(page), "url": "http://127.0.0.1:1/x.png"},
    "a number as url": lambda page, outside: {"path": uploaded(page), "url": 7},
    "a url alone": lambda page, outside: {"url": f"http://{LEAK}/x.png"},
    "no path": lambda page, outside: {"path": None},
    "a list as path": lambda page, outside: {"path": [str(outside)]},
    "an empty path": lambda page, outside: {"path": ""},
}


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("meta", [None, META, {"_type": "x"}])
@pytest.mark.parametrize("kind", FOREIGN)
def test_no_foreign_file_is_read_shown_or_deleted(served, folder, outside, looked_up, kind, meta, begun):
    page = Page(served)
    if begun:
        page.begin()
    (folder / outside.name).write_bytes(outside.read_bytes())  # in the upload folder, but nobody uploaded it
    file = FOREIGN[kind](page, outside) | ({"meta": meta} if meta else {})
    answer = page.send(page.body("picture", "input", picture=file)[0])
    assert answer.status_code == 403
    assert "data:image" not in answer.text
    assert "base64" not in json.dumps(page.call("save-json", "click")), "the case has no picture"
    assert outside.read_bytes() == (folder / outside.name).read_bytes() == png("brown")
    assert LEAK not in looked_up
    if isinstance(file.get("path"), str) and str(folder) in file["path"]:
        assert os.path.lexists(file["path"]), "nor is it deleted"


@pytest.mark.parametrize("where", ["served", "form"])
def test_no_input_of_a_page_takes_one(request, outside, looked_up, where):
    page = Page(request.getfixturevalue(where))
    for meta in ({}, {"meta": META}):
        for path in (str(outside), f"http://{LEAK}/?name=X"):
            requests = list(page.every_input({"path": path} | meta))
            assert len(requests) >= 3  # the review form has three inputs, the page more
            assert {page.send(body).status_code for body in requests} == {403}
    assert outside.read_bytes() == png("brown")
    assert LEAK not in looked_up


@pytest.mark.parametrize("route", ["queue/join", "queue/join/", "run/x", "api/x", "call/x", "call/v2/x"])
@pytest.mark.parametrize("deep", [False, True])
def test_no_route_takes_one(served, outside, route, deep):
    page = Page(served)
    file = {"path": str(outside)}
    body, _ = page.body("picture", "input", picture=[{"a": [file]}] if deep else file)
    status = 403 if route in ("queue/join", "run/x") else 404  # the other routes of Gradio's are not there
    assert page.send(body, route).status_code == status
    assert page.send({"picture": file}, route).status_code == status
    assert page.send({"data": [], "event_data": file}, route).status_code == status
    assert outside.exists()


def test_only_json_runs_a_function(served, outside):
    page = Page(served)
    body = json.dumps(page.body("picture", "input", picture={"path": str(outside)})[0])
    for content, status in (
        (body + "}", 400),
        ("[" * 100_000, 400),
        (b"\xff", 400),
        (body.encode("utf-16"), 403),
    ):
        for kind in ("application/json", "text/plain", ""):
            answer = page.http.post("/gradio_api/queue/join", content=content, headers={"Content-Type": kind})
            assert answer.status_code == status, (content[:20], kind)
    for route in ("component_server", "process_recording"):
        sent = page.http.post(f"/gradio_api/{route}", files={"files": ("a.png", png())})
        assert sent.status_code == 404
    assert outside.exists()


@pytest.mark.parametrize("meta", [{}, {"meta": META}])
def test_an_own_upload_is_taken(served, meta):
    page = Page(served)
    page.begin()
    path = uploaded(page, "Anna Example.png")
    file = {"path": path, "url": f"{served}/gradio_api/file={path}", "orig_name": "Anna Example.png"} | meta
    shown = page.call("picture", "input", picture=file)
    assert "data:image" in shown["gallery"]
    assert not Path(path).exists()
    again = page.call("picture", "input", picture=file)
    assert says(again, "errors.picture_missing"), "it is deleted by now"


def test_nothing_is_read_before_the_disclaimer_is_accepted(served, monkeypatch):
    page = Page(served)
    path = uploaded(page)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("it was read"))
    assert says(page.call("picture", "input", picture={"path": path}), "errors.not_accepted")
    assert not Path(path).exists()


def test_a_browser_is_known_by_a_cookie_that_no_script_and_no_other_site_has(served, folder):
    first, second = (httpx.get(served, trust_env=False).headers["set-cookie"] for _ in range(2))
    assert first != second
    assert len(first.split(";")[0]) > 40
    assert {"HttpOnly", "SameSite=Lax"} <= set(first.split("; "))
    page = Page(served)
    assert "set-cookie" not in page.http.get("/").headers, "it stays the same"
    page.http.cookies.clear()
    before = sorted(folder.rglob("*"))
    assert page.upload(png("red"), "stranger.png").status_code == 403
    assert sorted(folder.rglob("*")) == before


def test_without_a_guard_no_file_is_taken():
    nobody = gr.Request(Request({"type": "http"}))
    assert not uploads.vouched({"path": "/x"}, nobody)
    assert not uploads.vouched({"path": "/x"}, gr.Request())
    assert uploads.vouched({"path": "/x"}, gr.Request(Request({"type": "http", uploads.NAMED: {"/x"}})))


def test_only_a_regular_file_is_read_and_deleted(tmp_path):
    file, link, pipe = (tmp_path / name for name in ("file", "link", "pipe"))
    file.write_text("years of work")
    link.symlink_to(file)
    os.mkfifo(pipe)
    for path in (link, pipe, tmp_path):
        assert uploads.take(str(path)) is None
        assert os.path.lexists(path)
    assert uploads.take(str(file)) == b"years of work"
    assert not file.exists()
    assert uploads.take(str(file)) is None
