"""Page, review form and HTTP API behind nginx and Caddy with TLS, by the shipped configurations, in Chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from skingpt4.server.audit import read, verify
from skingpt4.server.http.request import MODEL
from tests.support.hospital import GATE, PASSWORD, hospital
from tests.support.page_driver import CHROMIUM, TIMEOUT_MS, Clinician, browser
from tests.support.page_stub import upload
from tests.support.proxies import NAME, Certificate, make_certificate, missing, serving

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt install chromium)"),
]
# One reviewer for each proxy, since each agrees to the study once.
USERS = {"anna": "clinician", "nginx": "reviewer", "caddy": "reviewer"}


@pytest.fixture(autouse=True)
def open_gate() -> Iterator[None]:
    GATE.set()
    yield
    GATE.set()


@pytest.fixture(scope="module")
def behind(tmp_path_factory) -> Iterator[dict[str, int]]:
    """The ports of the three servers; in the end the audit log is complete and names who logged in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("private")))
        with hospital(tmp_path_factory.mktemp("hospital"), USERS) as running:
            yield running.ports
        verify(running.log)
        assert ("log_in", "anna") in {(line.event, line.facts.get("user")) for line in read(running.log)}


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


def test_the_review_form_through_the_proxy(proxy, chromium, request):
    rater = request.node.callspec.params["proxy"]
    context = chromium.new_context()
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    page.goto(f"{proxy}/review/")
    page.fill("input[name=username]", rater)
    page.fill("input[name=password]", "wrong")
    page.click("button")
    page.wait_for_selector("[role=alert]:not(:empty)")
    page.fill("input[name=username]", rater)
    page.fill("input[name=password]", PASSWORD)
    page.click("button")
    page.wait_for_selector("#sheet[data-view*=consent]")
    page.click("#save")
    page.wait_for_selector("#sheet:not([data-view*=consent])")
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
