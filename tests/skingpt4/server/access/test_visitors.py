"""Users on a served page: who gets in, how long, and what the audit log says about it."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
from contextlib import closing, contextmanager
from types import SimpleNamespace

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

import demo
from skingpt4.chat.texts import load
from skingpt4.server import address as server_address
from skingpt4.server.access import logins, passwords
from skingpt4.server.access.options import access_of
from skingpt4.server.access.sessions import Sessions
from skingpt4.server.access.users import PAGE_ROLES, Users
from skingpt4.server.access.visitors import Visitors
from skingpt4.server.audit import AuditLog, read, verify
from skingpt4.server.gradio_guard import USER, GradioGuard, GradioServer
from skingpt4.support.errors import UserError

server_address.stay_local()

from eval import review  # noqa: E402
from eval.asking import answers  # noqa: E402
from eval.rating import database  # noqa: E402
from eval.rating import form as review_page  # noqa: E402
from eval.rating.desk import Desk, select  # noqa: E402
from eval.rating.store import Store  # noqa: E402
from skingpt4.server import gradio_app  # noqa: E402
from tests.support.gradio_page import Page, client, open_page, png  # noqa: E402
from tests.support.page_driver import CHROMIUM, browser  # noqa: E402
from tests.support.page_stub import Stub, tools  # noqa: E402
from tests.support.ports import free_port  # noqa: E402
from tests.support.review_run import make_run  # noqa: E402

PASSWORD = "correct horse battery"
EN = load("en")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    monkeypatch.setattr(
        passwords, "HASHER", passwords.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    )


@pytest.fixture
def users(tmp_path) -> Users:
    made = Users(tmp_path / "users.json")
    for name, role in (("anna", "clinician"), ("bert", "reviewer"), ("root", "administrator")):
        made.add(name, role, PASSWORD)
    return made


@pytest.fixture
def log(tmp_path) -> AuditLog:
    return AuditLog(tmp_path / "audit.sqlite")


def options(**given):
    return SimpleNamespace(**({"users": None, "auth_header": None, "trusted_proxy": []} | given))


@contextmanager
def page_served(log, session=Stub, **given):
    """A page with the users of these options; yields its address."""
    access = access_of(options(**given), PAGE_ROLES, "Not a diagnosis.", log.append)
    address = demo.Address(port=free_port(), max_upload_mb=1)
    stub = tools(session, log=log.append)
    blocks = demo.launch(stub, address, access=access)
    try:
        yield f"http://127.0.0.1:{address.port}"
    finally:
        blocks.close(verbose=False)


def log_in(browser: httpx.Client, user: str = "anna", password: str = PASSWORD) -> httpx.Response:
    return browser.post("/login", data={"username": user, "password": password})


def page_of(browser: httpx.Client, session: str = "thepage") -> Page:
    page = Page.__new__(Page)
    page.http, page.session = browser, session
    page.read_config()
    return page


def events(log: AuditLog, *facts: str) -> list[tuple]:
    return [(line.event, *(line.facts.get(fact) for fact in facts)) for line in read(log.path)]


def test_the_audit_log_tells_who_did_what(users, log):
    with page_served(log, users=users.path) as url:
        stranger = client(url)
        assert log_in(stranger, "anna", "wrong").json()["detail"] == EN["server.wrong_login"]
        assert log_in(stranger, "my secret password", "").status_code == 400
        assert log_in(stranger, "bert").json()["detail"] == EN["server.not_allowed"]
        anna, root = client(url), client(url)
        assert log_in(anna).status_code == 200
        assert log_in(root, "root").status_code == 200
        pages = {"anna": page_of(anna, "annas"), "root": page_of(root, "roots")}
        for page in pages.values():
            page.begin()
        pages["anna"].add(png())
        pages["root"].add(png("brown"))
        pages["anna"].ask("Is Anna Example ill?")
        pages["anna"].call("save-json", "click")
        pages["anna"].call("delete-yes", "click")
        anna.post("/logout")
        pages["root"].ask("And this?")
        root.post("/logout")
    lines = list(read(log.path))
    assert verify(log.path)[0] == len(lines)
    assert events(log, "user") == [
        ("log_in_failed", "anna"), ("log_in_failed", "not known"), ("log_in_failed", "bert"),
        ("log_in", "anna"), ("log_in", "root"),
        ("consultation_started", "anna"), ("consultation_started", "root"),
        ("picture_added", "anna"), ("picture_added", "root"),
        ("asked", "anna"), ("answered", "anna"), ("exported", "anna"), ("consultation_deleted", "anna"),
        ("consultation_started", "anna"), ("log_out", "anna"),
        ("asked", "root"), ("answered", "root"), ("log_out", "root"),
    ]  # fmt: skip
    added = [line.facts["sha256"] for line in lines if line.event == "picture_added"]
    assert all(re.fullmatch("[0-9a-f]{64}", sha) for sha in added)
    assert added[0] != added[1]
    assert {line.facts["address"] for line in lines if "log_" in line.event} == {"127.0.0.1"}
    everything = log.path.read_bytes().decode("latin-1")
    for secret in ("Anna Example", "my secret password", PASSWORD, "And this?", "photo.jpg"):
        assert secret not in everything


def test_a_disabled_user_is_out_at_once_and_the_case_is_gone(users, log):
    with page_served(log, users=users.path) as url:
        anna = client(url)
        log_in(anna)
        page = page_of(anna)
        page.begin()
        page.add(png())
        body, _ = page.body("save-json", "click")
        users.set_enabled("anna", False)
        answer = page.send(body)
        assert (answer.status_code, answer.json()["detail"]) == (401, EN["server.logged_out"])
        assert log_in(anna).json()["detail"] == EN["server.wrong_login"]
        users.set_enabled("anna", True)
        assert anna.get("/config").status_code == 401, "the old log-in does not come back"
        assert log_in(anna).status_code == 200
        assert "base64" not in json.dumps(page_of(anna).call("save-json", "click"))


def test_an_answer_that_is_being_written_ends_when_its_user_is_disabled(users, log):
    asked, go_on = threading.Event(), threading.Event()

    class Endless(Stub):
        def stream(self, question, generation):
            while not self.stopping.is_set():
                asked.set()
                yield "word "
                time.sleep(0.05)
            go_on.set()

    with page_served(log, Endless, users=users.path) as url:
        anna = client(url)
        log_in(anna)
        page = page_of(anna)
        page.begin()
        page.add(png())
        stream, _ = open_page(page)
        page.send(page.body("ask", "click", question="What?")[0]).raise_for_status()
        with anna.stream("GET", "/gradio_api/queue/data", params={"session_hash": page.session}) as answer:
            pieces = answer.iter_lines()
            next(pieces)
            assert asked.wait(60)
            users.set_enabled("anna", False)
            with pytest.raises(httpx.RemoteProtocolError):
                list(pieces)
        assert go_on.wait(60), "nothing more is computed"
        stream.__exit__(None, None, None)
        assert anna.get("/config").status_code == 401


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt install chromium)")
def test_logging_in_and_out_and_being_locked_out_in_chromium(users, log, monkeypatch):
    with page_served(log, users=users.path) as url, browser() as chromium:
        page = chromium.new_context(locale="en-GB").new_page()
        page.set_default_timeout(60_000)

        def type_in(user: str, password: str) -> None:
            page.fill("input[name=username]", user)
            page.fill("input[name=password]", password)
            page.keyboard.press("Enter")

        page.goto(f"{url}/")
        type_in("anna", "wrong")
        page.wait_for_selector(f"text={EN['server.wrong_login']}")
        type_in("bert", PASSWORD)
        page.wait_for_selector(f"text={EN['server.not_allowed']}")
        type_in("anna", PASSWORD)
        page.wait_for_selector("text=Logged in as anna")
        page.check("#accept input")
        page.click("#begin:not([disabled])")
        page.wait_for_selector("#picture")
        page.click(".user button")
        page.wait_for_selector("input[name=password]")
        monkeypatch.setattr(
            logins, "NUM_FREE", -4
        )  # 32 seconds after one failure: however slow this machine is
        type_in("root", "wrong")
        page.wait_for_selector(f"text={EN['server.wrong_login']}")
        type_in("root", PASSWORD)
        page.wait_for_selector("text=Too many failed attempts: wait")
    assert [(line.event, line.facts["user"]) for line in read(log.path)][:5] == [
        ("log_in_failed", "anna"), ("log_in_failed", "bert"), ("log_in", "anna"),
        ("consultation_started", "anna"), ("log_out", "anna"),
    ]  # fmt: skip
    assert [line.event for line in read(log.path)][5:] == ["log_in_failed"]


# ---- without Gradio


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def visit(users, log):
    """A browser of a server that has a guard and nothing behind it; arguments as of `access_of` and `TestClient`."""
    servers: dict[str, GradioGuard] = {}

    async def nothing(scope, receive, send):
        await PlainTextResponse(f"page of {scope[USER]}")(scope, receive, send)

    def visit(address: str = "10.0.0.1", scheme: str = "http", **given) -> TestClient:
        given = {"users": users.path} | given
        if (key := repr(given)) not in servers:
            access = access_of(options(**given), PAGE_ROLES, "Not a diagnosis.", log.append)
            sessions = Sessions(lambda name: None)
            visitors = Visitors(access, EN, "login", {"/"}, sessions.end_all_of, clock)
            servers[key] = GradioGuard(nothing, GradioServer(
                {"/"}, EN, sessions, None, False, visitors, set(), lambda session: 0,
            ))  # fmt: skip
        return TestClient(servers[key], f"{scheme}://clinic.example", client=(address, 1))

    visit.clock = clock = Clock()
    return visit


def test_tries_are_limited_for_a_user(visit, log):
    statuses = [log_in(visit(f"10.0.0.{n}"), "anna", "wrong").status_code for n in range(logins.NUM_FREE + 1)]
    assert statuses == [400] * logins.NUM_FREE + [429]
    slow = log_in(visit("10.0.1.1"))
    assert slow.json()["detail"] == EN("server.too_soon", seconds=1), "the right password is not looked at"
    assert log_in(visit("10.0.1.1"), "root").status_code == 200, "others still get in"
    visit.clock.now += 1
    assert log_in(visit("10.0.1.1")).status_code == 200
    waits = [line.facts["wait_seconds"] for line in read(log.path) if line.event == "log_in_failed"]
    assert waits == [0, 0, 1], "the log tells when a name was locked"


@pytest.mark.parametrize("spread", [lambda n: "10.0.0.1", lambda n: f"2001:db8::{n:x}"])
def test_tries_are_limited_for_an_address(visit, spread):
    for number in range(logins.NUM_FREE_OF_ADDRESS):
        assert log_in(visit(spread(number)), f"name{number}", "wrong").status_code == 400
    assert log_in(visit(spread(99))).status_code == 429
    assert log_in(visit("10.7.7.7")).status_code == 200, "other addresses get in"


def test_a_browser_that_is_known_is_not_locked_out_by_a_guesser(visit):
    anna = visit()
    anna.get("/")
    log_in(anna)
    anna.post("/logout")
    for _ in range(logins.NUM_FREE):
        log_in(visit(), "anna", "wrong")
    assert log_in(visit()).status_code == 429
    assert log_in(anna).status_code == 200


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_cookies_are_for_tls_alone_where_there_is_tls(visit, scheme):
    anna = visit(scheme=scheme)
    first, done = anna.get("/"), log_in(anna)
    for answer in (first, done):
        cookie = answer.headers["set-cookie"].lower()
        assert ("; secure" in cookie) == (scheme == "https")
        assert "; httponly" in cookie
    assert anna.get("/").text == "page of anna"


def test_log_ins_end(visit):
    anna = visit()
    log_in(anna)
    visit.clock.now += logins.IDLE_SECONDS + 1
    assert 'type="password"' in anna.get("/").text, "not used"
    log_in(anna)
    for _ in range(logins.MAX_SECONDS // 3000):
        visit.clock.now += 3000
        assert anna.get("/").text == "page of anna"
    visit.clock.now += 3000
    assert 'type="password"' in anna.get("/").text, "used, but too long"
    log_in(anna)
    anna.post("/logout")
    assert 'type="password"' in anna.get("/").text


def test_what_cannot_be_looked_up_is_a_sentence(visit, users, caplog):
    anna, new = visit(), visit()
    log_in(anna)
    users.path.write_text("damaged")
    for answer in (log_in(new), anna.get("/"), anna.post("/gradio_api/queue/join", json={})):
        assert (answer.status_code, answer.json()["detail"]) == (503, EN["server.log_in_not_now"])
    new.headers["accept"] = "text/html"
    form = log_in(new)
    assert (form.status_code, 'type="password"' in form.text) == (503, True)
    assert EN["server.log_in_not_now"] in form.text
    assert "users.json: is damaged" in caplog.text


def test_nobody_gets_in_unlogged(visit, log):
    anna = visit()
    log.path.write_bytes(b"no longer a log")
    assert log_in(anna).status_code == 503
    assert 'type="password"' in anna.get("/").text


def test_only_the_proxy_may_name_the_user(visit, log):
    given = {"auth_header": "X-Remote-User", "trusted_proxy": ["10.0.0.0/8", "fd00::/8"]}
    anna = {"x-remote-user": "anna"}
    for address in ("11.0.0.1", "127.0.0.1", "::1", "::ffff:11.0.0.1", "testclient", ""):
        answer = visit(address, **given).get("/", headers=anna)
        assert (answer.status_code, answer.json()["detail"]) == (401, EN["server.not_by_proxy"]), address
    assert events(log) == []
    for address in ("10.9.9.9", "::ffff:10.0.0.1", "fd00::1"):
        assert visit(address, **given).get("/", headers=anna).text == "page of anna"
    assert visit("10.9.9.9", **given).get("/", headers={"x-remote-user": "x" * 5000}).status_code == 403
    everybody = visit("10.9.9.9", **given | {"users": None})
    assert everybody.get("/", headers={"x-remote-user": "somebody"}).text == "page of somebody"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"auth_header": "X-Remote-User"}, "--trusted-proxy"),
        ({"auth_header": "X Remote"}, "not the name of a header"),
        ({"auth_header": "X-Forwarded-User", "trusted_proxy": ["10.0.0.1"]}, "taken off every request"),
        ({"users": "/nowhere/users.json"}, "there is no such users file"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given, why):
    with pytest.raises(UserError, match=why):
        access_of(options(**given), PAGE_ROLES, "")


@pytest.mark.parametrize(
    ("proxies", "warned"),
    [
        (["127.0.0.1"], True),
        (["10.0.0.5", "::1"], True),
        (["0.0.0.0/0"], True),
        (["10.0.0.5"], False),
        (["10.0.0.0/8", "fd00::/8"], False),
    ],
)
def test_a_proxy_on_this_machine_that_names_users_is_warned_about(caplog, proxies, warned):
    access_of(options(auth_header="X-Remote-User", trusted_proxy=proxies), PAGE_ROLES, "")
    assert ("every program of this machine can name any user" in caplog.text) == warned
    caplog.clear()
    access_of(options(trusted_proxy=proxies), PAGE_ROLES, "")
    assert not caplog.text, "without header log-in there is nothing to warn of"


def test_a_file_without_anybody_for_this_page_is_refused(users):
    for name in ("anna", "root"):
        users.set_enabled(name, False)
    with pytest.raises(UserError, match="no enabled user with the role clinician or administrator"):
        access_of(options(users=users.path), PAGE_ROLES, "")


# ---- a proxy, and the review form


def test_a_trusted_proxy_names_the_user(users, log):
    given = {"users": users.path, "auth_header": "X-Remote-User", "trusted_proxy": ["127.0.0.1"]}
    with page_served(log, **given) as url:
        anna, bert, nobody, two = (client(url) for _ in range(4))
        anna.headers["x-remote-user"], bert.headers["x-remote-user"] = "anna", "bert"
        anna.get("/"), anna.get("/")
        page = page_of(anna)
        page.begin()
        page.add(png())
        assert bert.get("/").json()["detail"] == EN["server.not_allowed"], "a reviewer"
        for answer in (
            nobody.get("/"),
            two.get("/", headers=[("x-remote-user", "anna"), ("x-remote-user", "root")]),
        ):
            assert (answer.status_code, answer.json()["detail"]) == (401, EN["server.not_by_proxy"])
        for other in (b"\xa0anna", b"anna\x85"):
            assert nobody.get("/", headers={"x-remote-user": other}).status_code == 403, "another name"
        assert nobody.get("/", headers={"x-remote-user": b"\xa0"}).status_code == 401
        assert log_in(anna).status_code == 404, "there is no log-in here"
        users.set_enabled("anna", False)
        assert anna.get("/config").status_code == 403
        users.set_enabled("anna", True)
        assert "base64" not in json.dumps(page.call("save-json", "click")), "the case ended with it"
        anna.post("/logout")
    assert events(log, "user", "by")[0] == ("log_in", "anna", "x-remote-user")
    assert [name for name, *_ in events(log)] == [
        "log_in",
        "consultation_started",
        "picture_added",
        "log_out",
    ]


@contextmanager
def form_served(tmp_path, log, **given):
    run = answers.read_run(make_run(tmp_path / "run", num_cases=2))
    store = Store(run.folder)
    store.add_rater("carl", PASSWORD)
    args = options(run_dir=run.folder, audit_log=log.path, **given)
    address = demo.Address(port=free_port())
    desk = Desk(store, select(run, run.folder, None, None))
    blocks = gradio_app.launch(
        review_page.build(desk), address, {"status": "ok"}, EN, access=review.form_access(args, store)
    )
    try:
        yield f"http://127.0.0.1:{address.port}", store
    finally:
        blocks.close(verbose=False)


def test_a_locked_database_of_raters_is_a_sentence(tmp_path, log, monkeypatch):
    monkeypatch.setattr(database, "WAIT_SECONDS", 0.1)
    with form_served(tmp_path, log) as (url, store):
        browser = client(url)
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
            other.execute("BEGIN IMMEDIATE")
            answer = log_in(browser, "carl")
            assert (answer.status_code, answer.json()["detail"]) == (503, EN["server.log_in_not_now"])
            other.execute("ROLLBACK")
        assert log_in(browser, "carl").status_code == 200, "that was no failure of the user's"


def test_users_rate_under_their_own_names(tmp_path, users, log):
    with form_served(tmp_path, log, users=users.path) as (url, _):
        browser = client(url)
        assert log_in(browser, "root").json()["detail"] == EN["server.not_allowed"]
        assert log_in(browser, "carl").status_code == 400, "the users, not the raters of the store"
        assert log_in(browser, "bert").status_code == 200
        page = page_of(browser)
        shown = json.dumps(page.config)
        body = next(d for d in page.config["dependencies"] if any(t[1] == "load" for t in d["targets"]))
        result = page._run(page._body(body["id"], []), body["outputs"])
        assert "bert" in json.dumps(result) or "bert" in shown
    assert ("log_in", "bert") in events(log, "user")
