"""Page, review form and HTTP API behind nginx and Caddy with TLS, by the shipped configurations, in Chromium."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

import demo

demo.stay_local()

from eval.asking import answers  # noqa: E402
from eval.rating import form as review_page  # noqa: E402
from eval.rating.desk import Desk, select  # noqa: E402
from eval.rating.store import Store  # noqa: E402
from skingpt4.chat.texts import load  # noqa: E402
from skingpt4.server import gradio_app  # noqa: E402  (Gradio reads the environment on import)
from skingpt4.server.http.request import MODEL  # noqa: E402
from skingpt4.server.http.response import Usage  # noqa: E402
from skingpt4.server.http.routes import Api, make_app  # noqa: E402
from skingpt4.server.http.server import served  # noqa: E402
from tests.support.page_driver import CHROMIUM, TIMEOUT_MS, Clinician, browser, free_port  # noqa: E402
from tests.support.page_stub import Stub, tools, upload  # noqa: E402
from tests.support.proxies import NAME, PATHS, Certificate, make_certificate, missing, serving  # noqa: E402
from tests.support.review_run import make_run  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt install chromium)")
PASSWORD = "correct horse battery"
GATE = threading.Event()  # closed while a test looks at the beginning of an answer


class Paced(Stub):
    """Waits after the first word while the gate is closed."""

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


@pytest.fixture(autouse=True)
def open_gate() -> Iterator[None]:
    GATE.set()
    yield
    GATE.set()


@pytest.fixture(scope="module")
def behind(tmp_path_factory) -> Iterator[dict[str, int]]:
    """The ports of the three servers, each told of its proxy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("private")))
        addresses = {
            name: demo.Address(port=free_port(), names=(NAME,), root_path=path, proxies=("127.0.0.1",))
            for name, path in PATHS.items()
        }
        page = demo.launch(tools(Paced), addresses["page"], password=PASSWORD)
        run = answers.read_run(make_run(tmp_path_factory.mktemp("run") / "run"))
        desk = Desk(Store(run.folder), select(run, run.folder, None, None))
        desk.store.add_rater("anna", PASSWORD)
        review = gradio_app.launch(
            review_page.build(desk), addresses["review"], {"status": "ok"}, load(), css=review_page.CSS,
            head=review_page.SCRIPT, check_password=desk.store.login, login_message=review_page.DISCLAIMER,
        )  # fmt: skip
        answerer = SimpleNamespace(
            identity={"checkpoint": "run/1"}, about={}, fingerprint="x", context=2048, new_answer=PacedAnswer
        )
        app = make_app(Api(answerer, key=PASSWORD), addresses["api"])
        with served(app, port=addresses["api"].port):
            yield {name: address.port for name, address in addresses.items()}
        page.close(verbose=False)
        review.close(verbose=False)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def proxy(request, tmp_path_factory, certificate, behind) -> Iterator[str]:
    if reason := missing(request.param):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp(request.param) / "proxy"
    with serving(request.param, folder, certificate, behind) as url:
        yield url


@pytest.fixture(scope="module")
def chromium(certificate) -> Iterator[Any]:
    """Looks NAME up on this machine, and takes a certificate that no authority signed if it is the test's own."""
    names = f"--host-resolver-rules=MAP {NAME} 127.0.0.1"
    with browser(names, f"--ignore-certificate-errors-spki-list={certificate.pin}") as started:
        yield started


@pytest.fixture
def client(proxy, certificate) -> Iterator[httpx.Client]:
    """A client that trusts the test's authority alone."""
    port = proxy.rsplit(":", 1)[1]

    class Local(httpx.HTTPTransport):
        def handle_request(self, request):
            request.extensions["sni_hostname"] = NAME
            request.url = request.url.copy_with(host="127.0.0.1")
            return super().handle_request(request)

    headers = {"Host": f"{NAME}:{port}"}
    with httpx.Client(
        base_url=proxy, headers=headers, transport=Local(verify=certificate.trust), timeout=60
    ) as made:
        yield made


def test_a_consultation_through_the_proxy(proxy, chromium, tmp_path):
    clinician = Clinician(chromium, f"{proxy}/consult", login=("anna", PASSWORD))
    page = clinician.page
    assert page.url == f"{proxy}/consult/"
    cookies = {cookie["name"].rsplit("-", 1)[0]: cookie for cookie in clinician.context.cookies()}
    assert {"skingpt4-login", "skingpt4"} == cookies.keys()
    for cookie in cookies.values():
        assert (cookie["secure"], cookie["httpOnly"], cookie["path"]) == (True, True, "/consult/"), cookie
    clinician.accept()
    upload(tmp_path, "lesion.jpg")
    clinician.add(tmp_path / "lesion.jpg", 1)
    GATE.clear()
    page.click("#study0")
    assert clinician.begun(1).endswith("it"), (
        "the answer's beginning arrives while its end is not written yet"
    )
    GATE.set()
    assert clinician.ended(1).endswith("it is <b>red</b>")
    page.goto(f"{proxy}/consult/de")
    page.wait_for_function("document.documentElement.lang === 'de' && document.title.includes(': ')")
    assert (clinician.foreign, clinician.errors) == ([], [])
    clinician.close()


def test_the_review_form_through_the_proxy(proxy, chromium):
    context = chromium.new_context()
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    page.goto(f"{proxy}/review/")
    page.fill("input[name=username]", "anna")
    page.fill("input[name=password]", "wrong")
    page.click("button")
    page.wait_for_selector("[role=alert]:not(:empty)")
    page.fill("input[name=username]", "anna")
    page.fill("input[name=password]", PASSWORD)
    page.click("button")
    page.wait_for_selector("#sheet[data-serial*=consent]")
    page.click("#save")
    page.wait_for_selector("#sheet:not([data-serial*=consent])")
    assert all(cookie["secure"] and cookie["path"] == "/review/" for cookie in context.cookies())
    page.click("header form button")
    page.wait_for_selector("input[name=password]")
    assert page.url == f"{proxy}/review/"
    context.close()


def test_the_api_through_the_proxy(client):
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "What is it?"}]}
    key = {"Authorization": f"Bearer {PASSWORD}"}
    assert client.post("/api/v1/chat/completions", json=body).status_code == 401
    assert client.get("/api/v1/models", headers=key).json()["data"][0]["id"] == MODEL
    GATE.clear()
    with client.stream("POST", "/api/v1/chat/completions", json=body, headers=key) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("data: {"))
        first = json.loads(next(lines)[6:])
        assert first["choices"][0]["delta"]["content"] == "it ", (
            "it arrives while the rest is not written yet"
        )
        GATE.set()
        rest = [json.loads(line[6:])["choices"][0]["delta"].get("content") for line in lines]
    assert rest[0] == "is"


def test_other_names_and_sites_are_refused_behind_the_proxy_too(client, proxy):
    for path in ("/consult/config", "/review/config", "/api/v1/models"):
        foreign = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
        assert client.get(path, headers=foreign).status_code == 403, path
        plain = {"Origin": f"http://{NAME}"}
        assert client.get(path, headers=plain).status_code == 403, path
        forged = {"X-Forwarded-Host": "elsewhere.example", "X-Forwarded-Proto": "http"}
        answer = client.get(path, headers={**forged, "Origin": proxy})
        assert answer.status_code == 401, (
            "the proxy replaces what a browser wrote, so only the log-in is missing"
        )
    assert client.get("/").headers["location"].endswith("/consult/")
    assert client.get("/elsewhere").status_code == 404


def test_no_web_socket_passes(client):
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    answer = client.get("/consult/", headers=upgrade | {"Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg=="})
    assert answer.status_code != 101, "the page needs none: results come as server-sent events"
