"""No name but this server's own, and no other site's page: raw requests to page, review form and HTTP API."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import demo
from skingpt4.chat.texts import load
from skingpt4.server import address as server_address
from skingpt4.server.access.logins import Access
from skingpt4.server.access.options import shared_password
from skingpt4.server.address import PEER, Address, AddressError
from skingpt4.server.guard import Guard
from skingpt4.server.http.routes import Api, make_app
from skingpt4.server.http.server import served as api_served

server_address.stay_local()

from eval.asking import answers  # noqa: E402
from eval.rating import form as review_page  # noqa: E402
from eval.rating.desk import Desk, select  # noqa: E402
from eval.rating.store import Store  # noqa: E402
from skingpt4.server import gradio_app  # noqa: E402
from tests.support.page_stub import tools  # noqa: E402
from tests.support.ports import free_port  # noqa: E402
from tests.support.review_run import make_run  # noqa: E402

PASSWORD = "correct horse"
LOCAL = ("127.0.0.1", "localhost", "127.0.0.2", "127.255.255.254", "[::1]", "[0:0:0:0:0:0:0:1]")
FOREIGN_NAMES = (
    "elsewhere.example", "localhost.elsewhere.example", "127.0.0.1.elsewhere.example", "localhost.", "localhost@x",
    "192.168.0.1", "0.0.0.0", "[::]", "[::2]", "::1", "[::1", "127.1", "2130706433", "0x7f.1", "", "*",
)  # fmt: skip


# ---- the rule alone


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    headers = [
        (b"Access-Control-Allow-Origin", b"*"),
        (b"access-control-allow-credentials", b"true"),
        (b"x", b"y"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"a secret"})


def ask(
    address: Address, *headers: tuple[str, str], method: str = "GET", path: str = "/x", names: Any = None
) -> tuple[int, dict]:
    """Status and headers of what a guarded server answers."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    scope = {"type": "http", "method": method, "path": path, "headers": encoded, "query_string": b""}
    anyio.run(Guard(nothing, address, {"/", "/de"}, names), scope, None, send)
    assert (b"a secret" in sent[1]["body"]) == (sent[0]["status"] == 200)
    return sent[0]["status"], dict(sent[0]["headers"])


@pytest.mark.parametrize("bound", ["127.0.0.1", "127.0.0.2", "::1", "localhost", "127.1", "::ffff:127.0.0.1"])
def test_what_is_bound_to_this_machine_goes_by_this_machine_s_names_alone(bound):
    address = Address(bound)
    assert address.local
    for name in LOCAL:
        for port in ("", ":7860", ":80"):
            assert ask(address, ("Host", name.upper() + port))[0] == 200, name
    for name in set(FOREIGN_NAMES) - {bound}:
        for port in ("", ":7860"):
            assert ask(address, ("Host", name + port))[0] == 400, name


@pytest.mark.parametrize("bound", ["0.0.0.0", "::", "0"])
def test_an_open_address_goes_by_ip_addresses_and_its_own_names(bound, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "Ward3")
    address = Address(bound, names=("skin.ward.example",))
    assert not address.local
    for name in (*LOCAL, "192.168.0.1", "[fe80::1]", "ward3", "skin.ward.example"):
        assert ask(address, ("Host", f"{name}:7860"))[0] == 200, name
    for name in ("elsewhere.example", "x.skin.ward.example", "ward3.elsewhere.example", ""):
        assert ask(address, ("Host", f"{name}:7860"))[0] == 400, name


def test_two_hosts_or_none_are_refused():
    assert ask(Address())[0] == 400
    assert ask(Address(), ("Host", "localhost"), ("Host", "elsewhere.example"))[0] == 400
    assert ask(Address(), ("Host", "localhost:port"))[0] == 400
    assert ask(Address(), ("Host", "localhost:7860:1"))[0] == 400


@given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=30))
def test_no_other_host_is_ours(name):
    known = re.fullmatch(
        r"(localhost|127\.\d+\.\d+\.\d+|\[[0:]*:0*1\]|\[::ffff:[0-9a-f.:]+\])(:\d{1,5})?", name.lower()
    )
    assert ask(Address(), ("Host", name))[0] == 400 or known


HOST = ("Host", "127.0.0.1:7860")
FOREIGN = [
    [("Origin", "https://elsewhere.example")],
    [("Origin", "http://127.0.0.1:9999")],
    [("Origin", "http://127.0.0.1")],
    [("Origin", "https://127.0.0.1:7860/x")],
    [("Origin", "http://localhost:7860")],
    [("Origin", "http://localhost:9999")],
    [("Origin", "http://[::1]:7860")],
    [("Origin", "http://127.0.0.1:7860.elsewhere.example")],
    [("Origin", "http://127.0.0.1:7860@elsewhere.example")],
    [("Origin", "file://127.0.0.1:7860")],
    [("Origin", "null")],
    [("Origin", "")],
    [("Origin", "http://[::1")],
    [("Origin", "http://127.0.0.1:7860"), ("Origin", "https://elsewhere.example")],
    [("Origin", "http://127.0.0.1:7860"), ("Sec-Fetch-Site", "cross-site")],
    [("Sec-Fetch-Site", "cross-site")],
    [("Sec-Fetch-Site", "same-site")],
    [("Sec-Fetch-Site", "Same-Origin")],
    [("Sec-Fetch-Site", "")],
    [("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")],
]
OWN = [
    [],
    [("Origin", "http://127.0.0.1:7860")],
    [("Origin", "http://127.0.0.1:7860"), ("Sec-Fetch-Site", "same-origin")],
    [("Sec-Fetch-Site", "none"), ("Sec-Fetch-Mode", "navigate")],
]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_pages_of_other_sites_are_refused_and_read_nothing(method):
    for headers in FOREIGN:
        assert ask(Address(), HOST, *headers, method=method)[0] == 403, headers
    for headers in OWN:
        status, answer = ask(Address(), HOST, *headers, method=method)
        assert status == 200, headers
        assert not [name for name in answer if name.lower().startswith(b"access-control")]
        assert answer[b"cross-origin-resource-policy"] == b"same-origin"
        assert answer[b"x"] == b"y"


def test_only_opening_the_page_is_left_to_links_of_other_sites():
    link = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")]
    assert ask(Address(), HOST, *link, path="/")[0] == 200
    assert ask(Address(), HOST, *link, path="/de")[0] == 200
    assert ask(Address(), HOST, *link, path="/", method="POST")[0] == 403
    assert ask(Address(), HOST, *link, path="/logout")[0] == 403
    for mode in ("no-cors", "cors", "websocket"):
        assert (
            ask(Address(), HOST, ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", mode), path="/")[0]
            == 403
        )


def test_the_ports_of_an_address_without_one_are_known():
    assert ask(Address(), ("Host", "localhost"), ("Origin", "http://localhost"))[0] == 200
    assert ask(Address(), ("Host", "localhost"), ("Origin", "http://localhost:80"))[0] == 200
    assert ask(Address(), ("Host", "localhost:443"), ("Origin", "https://localhost"))[0] == 200
    assert ask(Address(), ("Host", "localhost"), ("Origin", "http://localhost:8080"))[0] == 403


def test_a_proxy_s_name_is_one_of_ours_when_it_is_given():
    proxy = ("Origin", "https://skin.ward.example")
    assert ask(Address(), HOST, proxy, method="POST")[0] == 403
    named = Address(names=("skin.ward.example",))
    assert ask(named, HOST, proxy, method="POST")[0] == 200
    assert ask(named, ("Host", "skin.ward.example"), proxy, method="POST")[0] == 200
    assert ask(named, HOST, ("Origin", "https://x.skin.ward.example"), method="POST")[0] == 403


def test_another_port_of_a_given_name_is_another_site():
    named, host = Address(names=("skin.ward.example",)), ("Host", "skin.ward.example:7860")
    for origin in ("http://skin.ward.example:9999", "http://skin.ward.example"):
        assert ask(named, host, ("Origin", origin), method="POST")[0] == 403, origin
    assert ask(named, host, ("Origin", "http://skin.ward.example:7860"), method="POST")[0] == 200
    without_port = ("Host", "skin.ward.example"), ("Origin", "https://skin.ward.example:8443")
    assert ask(named, *without_port, method="POST")[0] == 200, "of proxies that leave it out"


def test_a_public_link_s_name_is_one_of_ours_once_it_is_known():
    public, names, link = Address(share=True), set(), "abc.gradio.live"
    assert not public.local
    for origin, status in ((f"https://{link}", 200), ("https://elsewhere.example", 403)):
        headers = (("Host", link), ("Origin", origin))
        assert ask(public, *headers, method="POST", names=names)[0] == 400
        names.add(link)
        assert ask(public, *headers, method="POST", names=names)[0] == status
        names.clear()


def test_no_web_socket_is_opened():
    sent = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def work() -> None:
        await Guard(nothing, Address())({"type": "websocket", "headers": [], "path": "/"}, None, send)

    anyio.run(work)
    assert sent == ["websocket.close"]


# ---- behind a reverse proxy

BEHIND = Address(names=("skin.ward.example",), root_path="/skin", proxies=("10.0.0.0/24", "::1"))
PUBLIC = [
    ("Host", "127.0.0.1:7860"),
    ("X-Forwarded-Host", "skin.ward.example"),
    ("X-Forwarded-Proto", "https"),
]


def seen(
    address: Address, client: str, *headers: tuple[str, str], path: str = "/x", method: str = "GET"
) -> tuple[int, Any]:
    """The status of what a guarded server answers, and the request as the application behind it sees it."""
    scopes, sent = [], []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await nothing(scope, receive, send)

    async def send(message: Any) -> None:
        sent.append(message)

    encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "headers": encoded,
        "query_string": b"", "client": (client, 1234), "scheme": "http",
    }  # fmt: skip
    anyio.run(Guard(app, address, {"/"}), scope, None, send)
    return sent[0]["status"], scopes[0] if scopes else dict(sent[0]["headers"])


def test_a_trusted_proxy_says_how_the_browser_called():
    sender = ("X-Forwarded-For", "192.0.2.7, 198.51.100.2, 10.0.0.9")
    status, scope = seen(BEHIND, "10.0.0.1", *PUBLIC, sender, ("Origin", "https://skin.ward.example"))
    assert (status, scope["scheme"], scope["client"]) == (200, "https", ("198.51.100.2", 0))
    assert dict(scope["headers"]) == {b"host": b"skin.ward.example", b"origin": b"https://skin.ward.example"}
    assert scope[PEER] == "10.0.0.1"


@pytest.mark.parametrize(
    "sender", ["root", "192.0.2.7 root", "2001:db8::7%root logged in", "2001:db8::7%\x1b[2J"]
)
def test_an_address_is_no_place_for_other_text(sender):
    _, scope = seen(BEHIND, "10.0.0.1", *PUBLIC, ("X-Forwarded-For", sender))
    assert scope["client"][0] == "10.0.0.1", "the audit log holds it"


@pytest.mark.parametrize("client", ["10.0.1.1", "127.0.0.1", "::2", "", "unix:", "::ffff:10.0.1.1"])
def test_nobody_else_s_forwarded_headers_are_seen(client):
    more = [
        ("Forwarded", "host=x"),
        ("X-Forwarded-For", "1.2.3.4"),
        ("X-Real-IP", "1.2.3.4"),
        ("X-Gradio-Server", "x"),
    ]
    status, scope = seen(BEHIND, client, *PUBLIC, *more)
    assert (status, scope["scheme"], scope["client"][0]) == (200, "http", client)
    assert dict(scope["headers"]) == {b"host": b"127.0.0.1:7860"}


def test_without_the_option_a_proxy_of_this_machine_is_believed():
    status, scope = seen(Address(names=BEHIND.names), "127.0.0.1", *PUBLIC)
    assert (status, scope["scheme"], dict(scope["headers"])[b"host"]) == (200, "https", b"skin.ward.example")
    assert seen(Address(names=BEHIND.names), "10.0.0.1", *PUBLIC)[1]["scheme"] == "http"


def test_a_name_pointed_at_this_machine_is_not_saved_by_a_forwarded_one():
    """A page that rebinds its name to this machine can write X-Forwarded-Host, but not Host."""
    forwarded = PUBLIC[1:]
    for client in ("10.0.0.1", "::1"):
        assert seen(BEHIND, client, ("Host", "elsewhere.example"), *forwarded)[0] == 400
    assert seen(BEHIND, "10.0.0.1", PUBLIC[0], ("X-Forwarded-Host", "elsewhere.example"))[0] == 400
    assert (
        seen(BEHIND, "10.0.0.1", PUBLIC[0], ("X-Forwarded-Host", "skin.ward.example, elsewhere.example"))[0]
        == 400
    )


def test_a_page_without_tls_is_another_site_where_tls_is_in_use():
    for origin in ("http://skin.ward.example", "http://skin.ward.example:80", "https://x.ward.example"):
        assert seen(BEHIND, "10.0.0.1", *PUBLIC, ("Origin", origin), method="POST")[0] == 403, origin
    assert seen(BEHIND, "10.0.0.1", *PUBLIC, ("Origin", "https://skin.ward.example"), method="POST")[0] == 200


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("/skin/", "/"),
        ("/skin/de", "/de"),
        ("/de", "/de"),
        ("/skinny/x", "/skinny/x"),
        ("/skin/skin/x", "/skin/x"),
    ],
)
def test_the_root_path_is_left_out(path, inside):
    scope = seen(BEHIND, "10.0.0.1", *PUBLIC, path=path)[1]
    assert (scope["path"], scope["raw_path"], scope["root_path"]) == (inside, inside.encode(), "/skin")


def test_the_root_path_without_its_slash_leads_to_the_page():
    status, headers = seen(BEHIND, "10.0.0.1", *PUBLIC, path="/skin")
    assert (status, headers[b"location"]) == (308, b"/skin/")
    assert seen(BEHIND, "10.0.0.1", ("Host", "elsewhere.example"), path="/skin")[0] == 400


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            {"names": ("https://skin.ward.example",)},
            "--allowed-host 'https://skin.ward.example': give a host name alone",
        ),
        ({"names": ("*",)}, "--allowed-host"),
        ({"names": ("skin.ward.example:443",)}, "--allowed-host"),
        ({"root_path": "skin"}, "--root-path 'skin': give a path like /skin"),
        ({"root_path": "/skin/"}, "--root-path"),
        ({"root_path": "/a/../b"}, "--root-path"),
        ({"root_path": "//elsewhere.example"}, "--root-path"),
        ({"root_path": "/"}, "--root-path"),
        ({"proxies": ("proxy.ward.example",)}, "--trusted-proxy 'proxy.ward.example': give an IP address"),
        ({"proxies": ("10.0.0.1/8",)}, "--trusted-proxy"),
        ({"share": True, "root_path": "/skin"}, "--share has a proxy of its own"),
    ],
)
def test_what_can_be_no_proxy_gets_a_sentence(wrong, words):
    with pytest.raises(AddressError, match=re.escape(words)):
        Address(**wrong)


@pytest.mark.parametrize("host", ["", "no.such.host.invalid", "a" * 300, "ä b"])
def test_a_host_that_does_not_exist_gets_a_sentence(host):
    with pytest.raises(AddressError, match="there is no such host"):
        Address(host).check()


# ---- the real servers


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        yield


def make_desk(folder) -> Desk:
    run = answers.read_run(make_run(folder, num_cases=2))
    return Desk(Store(run.folder), select(run, run.folder, None, None))


@pytest.fixture(scope="module", params=["page", "page with password", "form", "api"])
def server(request, folder, tmp_path_factory) -> Iterator[tuple[str, Any]]:
    """Each server's URL, and the application behind it."""
    address = Address(port=free_port())
    if request.param == "api":
        answerer = SimpleNamespace(
            identity={"checkpoint": "run/1"}, about={}, fingerprint="x", context=2048, engine=None
        )
        app = make_app(Api(answerer), address)
        with api_served(app, port=address.port) as url:
            yield url, app
        return
    if request.param == "form":
        desk = make_desk(tmp_path_factory.mktemp("run"))
        access = Access(desk.store.login, per_name=True)
        blocks = gradio_app.launch(review_page.build(desk), address, {}, load(), access=access)
    else:
        blocks = demo.launch(
            tools(), address, access=shared_password(PASSWORD) if "password" in request.param else None
        )
    yield f"http://127.0.0.1:{address.port}", blocks.app
    blocks.close(verbose=False)


def routes(app: Any) -> Iterator[tuple[str, str]]:
    """Every method and path that an application has, Gradio's too, with something in place of its parameters."""
    for route in app.routes:
        path = re.sub(r"\{[^}]*\}", "x", getattr(route, "path", "/"))
        for method in getattr(route, "methods", None) or ("GET",):
            yield method, path
    yield from (("POST", "/login"), ("POST", "/logout"), ("OPTIONS", "/gradio_api/queue/join"))


def test_no_route_of_any_server_answers_another_site(server):
    url, app = server
    host = url.removeprefix("http://")
    other_port = {"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}
    preflight = other_port | {"Access-Control-Request-Method": "POST"}
    elsewhere = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
    old_browser = {"Origin": f"http://localhost:{host.split(':')[1]}"}
    tried = sorted(set(routes(app)))
    assert len(tried) >= 5
    with httpx.Client(base_url=url, trust_env=False) as client:
        for method, path in tried:
            for headers in (other_port, preflight, elsewhere, old_browser):
                answer = client.request(
                    method, path, headers=headers, content=b"{}" if method == "POST" else None
                )
                assert answer.status_code == 403, (method, path, headers)
                assert not [name for name in answer.headers if name.startswith("access-control")]
            answer = client.request(method, path, headers={"Host": "elsewhere.example"})
            assert answer.status_code == 400, (method, path)
        own = client.get("/health", headers={"Origin": url, "Sec-Fetch-Site": "same-origin"})
        assert own.status_code == 200
        assert not [name for name in own.headers if name.startswith("access-control")]


def test_requests_that_only_look_like_ours_on_the_wire(server):
    """What no HTTP library sends."""
    url, _ = server
    host, port = url.removeprefix("http://").split(":")
    for head, status in (
        ("GET /health HTTP/1.1\r\n\r\n", b"400"),
        (f"GET http://elsewhere.example/health HTTP/1.1\r\nHost: elsewhere.example:{port}\r\n\r\n", b"400"),
        (f"GET /health HTTP/1.1\r\nHost: {host}\r\nHost: elsewhere.example\r\n\r\n", b"400"),
        (f"GET /health HTTP/1.1\r\nHost: elsewhere.example\r\nX-Forwarded-Host: {host}\r\n\r\n", b"400"),
        (f"GET /health HTTP/1.1\r\nHost: {host}\r\nOrigin: http://x\r\nX-Forwarded-Host: x\r\n\r\n", b"400"),
        (f"GET /health HTTP/1.1\r\nHost: {host}\r\nOrigin: http://x\r\n\r\n", b"403"),
        (f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n", b"200"),
    ):
        with socket.create_connection((host, int(port)), timeout=60) as line:
            line.sendall(head.encode())
            assert line.recv(4096).split(b" ", 2)[1] == status, head


@pytest.mark.parametrize("host", ["127.0.0.2", "::1", "localhost"])
def test_the_page_at_another_address_of_this_machine(folder, host):
    address = Address(host)
    try:
        address = Address(host, free_port(address.family, address.ip))
    except OSError:
        pytest.skip(f"this machine has no {host}")
    blocks = demo.launch(tools(), address)
    try:
        place = f"[{address.ip}]" if ":" in address.ip else address.ip
        url = f"http://{place}:{address.port}"
        with httpx.Client(base_url=url, trust_env=False) as client:
            assert client.get("/").status_code == 200
            assert client.get("/", headers={"Host": "elsewhere.example"}).status_code == 400
            assert client.get("/config", headers={"Origin": "http://127.0.0.1:1"}).status_code == 403
            assert client.get("/config", headers={"Origin": url}).status_code == 200
    finally:
        blocks.close(verbose=False)


@pytest.mark.parametrize(
    ("proxies", "root"), [((), "https://skin.ward.example"), (("10.0.0.1",), "http://127.0.0.1")]
)
def test_the_page_believes_the_headers_of_its_proxies_alone(folder, proxies, root):
    """Gradio and uvicorn believe such headers by themselves; here they see only what the guard leaves."""
    address = Address(port=free_port(), names=("skin.ward.example",), root_path="/skin", proxies=proxies)
    blocks = demo.launch(tools(), address)
    try:
        headers = {
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "skin.ward.example",
            "X-Gradio-Server": "http://x",
        }
        with httpx.Client(
            base_url=f"http://127.0.0.1:{address.port}", trust_env=False, headers=headers
        ) as client:
            page = client.get("/skin/")
            assert page.status_code == 200
            assert ("secure" in page.headers["set-cookie"].lower()) is (not proxies)
            port = f":{address.port}" if proxies else ""
            assert client.get("/skin/config").json()["root"] == f"{root}{port}/skin"
    finally:
        blocks.close(verbose=False)
