"""A page's sessions, uploads and log-ins belong to one browser, and none of them grows without a limit."""

from __future__ import annotations

import functools
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import demo
from skingpt4.chat.texts import languages, load
from skingpt4.server import address as server_address
from skingpt4.server import gradio_guard, uploads
from skingpt4.server.access import logins, sessions
from skingpt4.server.access.options import shared_password

server_address.stay_local()

from eval.asking import answers  # noqa: E402  (Gradio reads the environment when it is imported)
from eval.rating import form as review_page  # noqa: E402
from eval.rating.desk import Desk, select  # noqa: E402
from eval.rating.store import Store  # noqa: E402
from skingpt4.server import gradio_app  # noqa: E402
from tests.support.gradio_page import Page, client, open_page, png  # noqa: E402
from tests.support.page_driver import CHROMIUM, Clinician, browser  # noqa: E402
from tests.support.page_stub import Stub, tools  # noqa: E402
from tests.support.ports import free_port  # noqa: E402
from tests.support.review_run import make_run  # noqa: E402

PASSWORD = "correct horse"
EN = load("en")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        made = tmp_path_factory.mktemp("gradio")
        patch.setenv("GRADIO_TEMP_DIR", str(made))
        yield made


def serve(password: str | None = None, session: type[Stub] = Stub) -> tuple[Any, str]:
    address = demo.Address(port=free_port(), max_upload_mb=1)
    return demo.launch(
        tools(session), address, access=password and shared_password(password)
    ), f"http://127.0.0.1:{address.port}"


@pytest.fixture(scope="module")
def served(folder) -> Iterator[str]:
    blocks, url = serve()
    yield url
    blocks.close(verbose=False)


@pytest.fixture(scope="module")
def locked(folder) -> Iterator[str]:
    """A page with a password."""
    blocks, url = serve(PASSWORD)
    yield url
    blocks.close(verbose=False)


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ---- sessions


def test_nobody_else_uses_a_page_s_session(served):
    owner, other = Page(served), Page(served)
    owner.begin()
    owner.add(png())
    other.session = owner.session
    for control in ("save-json", "delete-yes", "ask", "regenerate", "remove", "stop"):
        answer = other.send(other.body(control, "click")[0])
        assert (answer.status_code, answer.json()["detail"]) == (403, EN["server.foreign_page"])
        assert other.send(other.body(control, "click")[0], "run/x").status_code == 403
    for path in (f"queue/data?session_hash={owner.session}", f"heartbeat/{owner.session}"):
        assert other.http.get(f"/gradio_api/{path}").status_code == 403
    cancel = {"session_hash": owner.session, "fn_index": 1, "event_id": "x"}
    assert other.send(cancel, "cancel").status_code == 403
    assert "base64" in json.dumps(owner.call("save-json", "click")), "its case is still there"


def test_an_answer_that_is_written_for_a_closed_page_reaches_nobody(folder):
    asked, go_on = threading.Event(), threading.Event()

    class Waiting(Stub):
        def stream(self, question, generation):
            for piece in super().stream(question, generation):
                asked.set()
                go_on.wait(60)
                yield piece

    blocks, url = serve(session=Waiting)
    try:
        owner, other = Page(url), Page(url)
        owner.begin()
        owner.add(png())
        stream, _ = open_page(owner)
        owner.send(owner.body("ask", "click", question="a secret")[0]).raise_for_status()
        assert asked.wait(60)
        stream.__exit__(None, None, None)
        owner.http.close()
        other.session = owner.session
        save = other.body("save-json", "click")[0]
        time.sleep(1)
        assert other.send(save).status_code == 403
        go_on.set()
        wait_until(lambda: other.send(save).status_code == 200)
        assert "secret" not in json.dumps(other.call("save-json", "click"))
    finally:
        go_on.set()
        blocks.close(verbose=False)


@pytest.mark.parametrize("name", [None, 7, "", "../x", "a b", "x" * 65, ["a"], {"a": 1}])
def test_a_request_names_one_session(served, name):
    page = Page(served)
    body, _ = page.body("begin", "click", accept=True)
    for route in ("queue/join", "run/x"):
        assert page.send(body | {"session_hash": name}, route).status_code == 400
    for query in ("", "session_hash=", f"session_hash={page.session}&session_hash=other"):
        assert page.http.get(f"/gradio_api/queue/data?{query}").status_code == 400


@pytest.mark.parametrize("number", [None, "0", -1, 10**9, 1.5, [0]])
def test_only_what_the_page_can_call_is_called(served, number):
    page = Page(served)
    body, _ = page.body("begin", "click", accept=True)
    for route in ("queue/join", "run/x", "cancel"):
        assert page.send(body | {"fn_index": number}, route).status_code == 400


def test_what_has_to_wait_for_its_turn_cannot_be_called_directly(served):
    page = Page(served)
    page.begin()
    for control in ("ask", "regenerate", "save-json", "delete-yes"):
        assert page.send(page.body(control, "click")[0], "run/x").status_code == 404
    assert page.send(page.body("stop", "click")[0], "run/x").status_code == 200


@pytest.mark.parametrize("upload", [{}, {"orig_name": "x"}, {"meta": {"_type": "gradio.FileData"}}])
def test_what_is_no_upload_is_no_picture(served, upload):
    page = Page(served)
    page.begin()
    shown = page.call("picture", "input", picture=upload)
    assert any(load(code)["errors.picture_missing"] in shown["note"] for code in languages())


def test_a_request_without_the_page_s_cookie_does_nothing(served, folder):
    page, before = Page(served), sorted(folder.rglob("*"))
    body, _ = page.body("begin", "click", accept=True)
    for cookie in ("", "x", "x" * 44, "ä" * 43):
        page.http.cookies.clear()
        headers = {"Cookie": f"{gradio_guard.BROWSER}={cookie}".encode()}
        answer = page.http.post("/gradio_api/queue/join", json=body, headers=headers)
        assert (answer.status_code, answer.json()["detail"]) == (403, EN["server.no_cookie"])
        page.http.cookies.clear()
        answer = page.http.post("/gradio_api/upload", files={"files": ("a.png", png())}, headers=headers)
        assert answer.status_code == 403
        for path in (f"heartbeat/{page.session}", f"queue/data?session_hash={page.session}"):
            assert page.http.get(f"/gradio_api/{path}", headers=headers).status_code == 403
    assert sorted(folder.rglob("*")) == before


def test_the_page_that_is_one_too_many_gets_a_sentence(folder, monkeypatch):
    few = functools.partial(sessions.Sessions, max_pages=3, max_of_one=2)
    monkeypatch.setattr(sessions, "Sessions", few)
    blocks, url = serve()
    try:
        pages = [Page(url) for _ in range(4)]
        alive = []
        for page in pages[:3]:
            alive.append(open_page(page))
            page.begin()
        refused = pages[3].send(pages[3].body("begin", "click", accept=True)[0])
        assert (refused.status_code, refused.json()["detail"]) == (429, EN["server.too_many_pages"])
        assert pages[3].http.get(f"/gradio_api/heartbeat/{pages[3].session}").status_code == 429
        held = blocks.state_holder.session_data
        assert {page.session for page in pages[:3]} == set(held), "nothing is held for it"
        alive[0][0].__exit__(None, None, None)
        wait_until(lambda: pages[3].send(pages[3].body("begin", "click", accept=True)[0]).status_code == 200)
        assert pages[1].call("save-json", "click"), "nobody's page was taken away"
        for stream, _ in alive[1:]:
            stream.__exit__(None, None, None)
    finally:
        blocks.close(verbose=False)


def test_many_made_up_sessions_hold_no_memory(folder):
    blocks, url = serve()
    try:
        page = Page(url)
        body, _ = page.body("begin", "click", accept=True)
        for number in range(3 * sessions.MAX_PAGES_OF_ONE):
            while page.send(body | {"session_hash": f"made-up-{number}"}).status_code == 503:
                time.sleep(0.05)  # the queue is full
        wait_until(lambda: len(blocks.state_holder.session_data) <= sessions.MAX_PAGES_OF_ONE)
        another = Page(url)
        another.begin()
        assert another.add(png())["gallery"].count("data:image") == 1
    finally:
        blocks.close(verbose=False)


def test_a_page_opens_only_so_many_connections(served):
    page = Page(served)
    page.begin()
    alive = [open_page(page) for _ in range(sessions.MAX_CONNECTIONS)]
    assert page.http.get(f"/gradio_api/heartbeat/{page.session}").status_code == 429
    assert page.http.get(f"/gradio_api/queue/data?session_hash={page.session}").status_code == 429
    for stream, _ in alive:
        stream.__exit__(None, None, None)


def test_what_a_page_does_not_fetch_is_bounded(served):
    page = Page(served)
    body, _ = page.body("save-json", "click")
    answers = [page.send(body) for _ in range(gradio_guard.MAX_PENDING + 1)]
    assert [answer.status_code for answer in answers[:-1]] == [200] * gradio_guard.MAX_PENDING
    assert answers[-1].status_code == 429
    assert answers[-1].json()["detail"] == EN["server.queue_full_here"]
    Page(served).begin()  # nobody else waits for it


def test_the_queue_of_all_pages_is_bounded(folder, monkeypatch):
    monkeypatch.setattr(gradio_app, "MAX_QUEUED", 0)
    blocks, url = serve()
    try:
        page = Page(url)
        answer = page.send(page.body("begin", "click", accept=True)[0])
        # For this status Gradio's script says "This application is currently busy. Please try again."
        assert answer.status_code == 503
        assert "Queue is full" in answer.json()["detail"]
    finally:
        blocks.close(verbose=False)


def test_a_long_request_is_not_read_to_its_end(served):
    page = Page(served)
    body, _ = page.body("begin", "click", accept=True)
    answer = page.send(body | {"event_data": "x" * gradio_guard.MAX_BODY})
    assert (answer.status_code, answer.json()["detail"]) == (413, EN["server.too_long"])


def test_a_request_that_comes_too_slowly_is_given_up(served, monkeypatch):
    monkeypatch.setattr(gradio_guard, "BODY_SECONDS", 0.2)
    monkeypatch.setattr(gradio_guard, "UPLOAD_SECONDS", 0.2)
    page = Page(served)
    cookie = f"{gradio_guard.BROWSER}={page.http.cookies[gradio_guard.BROWSER]}"
    host, port = served.removeprefix("http://").split(":")
    form = "Content-Type: multipart/form-data; boundary=x"
    for path, kind in (("queue/join", "Content-Type: application/json"), ("upload", form)):
        with socket.create_connection((host, int(port)), timeout=60) as line:
            head = f"POST /gradio_api/{path} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n{kind}\r\n"
            line.sendall(f"{head}Content-Length: 1000\r\n\r\n--x".encode())
            assert b" 408 " in line.recv(4096)


# ---- uploads


def test_equal_files_of_two_browsers_are_two_files(served):
    first, second = Page(served), Page(served)
    paths = [page.upload(png(), "photo.png").json()[0] for page in (first, second, first)]
    assert len(set(paths)) == 3
    assert len({Path(path).parent for path in paths}) == 3
    for page, path in zip((first, second), paths, strict=False):
        page.begin()
        assert "data:image" in page.call("picture", "input", picture={"path": path})["gallery"]
    assert not Path(paths[0]).exists()
    assert not Path(paths[1]).exists()
    assert Path(paths[2]).exists()


def test_an_upload_is_for_this_user_alone(served, folder):
    before = os.umask(0o000)
    try:
        path = Path(Page(served).upload(png(), "Anna Example.png").json()[0])
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    own = next(parent for parent in path.parents if parent.parent == folder)
    assert stat.S_IMODE(own.stat().st_mode) == 0o700


def test_waiting_uploads_are_bounded_for_one_browser_and_for_all(folder):
    blocks, url = serve()
    try:
        large = b"x" * 2**20
        page = client(url)

        def send(browser: httpx.Client, content: bytes = large) -> httpx.Response:
            return browser.post("/gradio_api/upload", files={"files": ("a.png", content)})

        statuses = [send(page).status_code for _ in range(uploads.NUM_OF_ONE + 1)]
        assert statuses == [200] * uploads.NUM_OF_ONE + [429]
        assert send(page).text == EN["server.uploads_full_here"], "in plain text, as Gradio's script shows it"
        assert 429 in [send(page, b"x").status_code for _ in range(5)], "small ones count too"
        others = [client(url) for _ in range(uploads.NUM_OF_ALL)]
        statuses = [send(other).status_code for other in others]
        assert statuses.count(200) == uploads.NUM_OF_ALL - uploads.NUM_OF_ONE
        assert send(others[-1]).text == EN["server.uploads_full"]
        total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert total <= uploads.max_total_bytes(2**20)
    finally:
        blocks.close(verbose=False)


def test_what_the_page_has_read_makes_room(served):
    page = Page(served)
    page.begin()
    for number in range(3 * uploads.NUM_OF_ONE):
        (path,) = page.upload(png(), f"{number}.png").raise_for_status().json()
        page.call("picture", "input", picture={"path": path})
        assert not Path(path).exists()


def test_an_upload_that_nobody_uses_is_deleted(served, monkeypatch):
    monkeypatch.setattr(uploads, "EXPIRE_SECONDS", 0.2)
    page = Page(served)
    path = Path(page.upload(png(), "photo.png").json()[0])
    wait_until(lambda: not path.parent.exists())
    body, _ = page.body("picture", "input", picture={"path": str(path)})
    assert page.send(body).status_code == 403


def listed(folder):
    """Everything in a folder; what goes away meanwhile is not in it."""
    return sorted(f"{place}/{name}" for place, *names in os.walk(folder) for each in names for name in each)


def test_nothing_is_left_of_an_upload_that_fails(served, folder):
    page, before = client(served), listed(folder)
    two = [("files", ("a.png", png())), ("files", ("b.png", png()))]
    for files, status in (
        (two, 400),
        ([("files", ("a.png", b"x" * (2**20 + 1)))], 413),
        ([("other", ("a.png", png()))], 400),
        ([("files", ("a.png", b"x" * 2**22))], 413),
    ):
        assert page.post("/gradio_api/upload", files=files).status_code == status
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    for content, headers, status in (
        (b"--x--", {}, 400),
        (b"", form, 400),
        (b"--x\r\nnothing", form, 400),
        (iter([b"--x--"]), form, 411),  # chunked, without a length
    ):
        answer = page.post("/gradio_api/upload", content=content, headers=headers)
        assert answer.status_code == status, (content, answer.text)
    host, port = served.removeprefix("http://").split(":")
    cookie = f"{gradio_guard.BROWSER}={page.cookies[gradio_guard.BROWSER]}"
    with socket.create_connection((host, int(port)), timeout=60) as line:
        part = '--x\r\nContent-Disposition: form-data; name="files"; filename="Anna.png"\r\n\r\nhalf of it'
        head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n"
        kind = "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 100000\r\n\r\n"
        line.sendall((head + kind + part).encode())
        time.sleep(0.3)
    wait_until(lambda: listed(folder) == before)  # of the client that left in the middle too


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files")
def test_a_form_of_many_files_opens_only_one(served, folder):
    """All of a form's files are open at once: so many leave nobody else a descriptor for a connection."""
    browser, before = client(served), len(os.listdir("/proc/self/fd"))
    host, port = served.removeprefix("http://").split(":")
    cookie = f"{gradio_guard.BROWSER}={browser.cookies[gradio_guard.BROWSER]}"
    part = '--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nx\r\n'
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}:{port}\r\nCookie: {cookie}\r\n"
    kind = "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 100000\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall((head + kind + part * 400).encode())
        assert b" 400 " in line.recv(4096)[:20]
        assert len(os.listdir("/proc/self/fd")) < before + 20


def test_odd_file_names_stay_in_their_folder(served, folder):
    page = client(served)
    for name in (
        "../../../etc/x.png",
        "/etc/x.png",
        "..",
        ".",
        "a\\..\\b",
        "x" * 500,
        "\u202egnp.exe",
        "",
        "a\nb",
    ):
        answer = page.post("/gradio_api/upload", files={"files": (name, png())})
        assert answer.status_code in (200, 400, 429, 507), name
        for path in answer.json() if answer.status_code == 200 else ():
            assert Path(path).resolve().is_relative_to(folder.resolve())
            os.unlink(path)


def test_the_review_form_takes_no_file(folder, tmp_path):
    run = answers.read_run(make_run(tmp_path / "run", num_cases=2))
    desk = Desk(Store(run.folder), select(run, run.folder, None, None))
    address = demo.Address(port=free_port())
    blocks = gradio_app.launch(review_page.build(desk), address, {"status": "ok"}, EN)
    try:
        page = client(f"http://127.0.0.1:{address.port}")
        assert page.post("/gradio_api/upload", files={"files": ("a.png", png())}).status_code == 404
    finally:
        blocks.close(verbose=False)


# ---- routes


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/info", "/gradio_api/openapi.json", "/gradio_api/token", "/gradio_api/user", "/login_check",
        "/gradio_api/dev/reload", "/monitoring", "/monitoring/summary", "/gradio_api/queue/status", "/pwa_icon",
        "/gradio_api/vibe-code", "/gradio_api/runs", "/svelte/x", "/gradio_api/custom_component/1/a/b/c",
        "/gradio_api/call/x/y", "/gradio_api/stream/a/b/c/playlist.m3u8", "/gradio_api/profiling/traces", "/docs",
        "/openapi.json", "/?deep_link=x", "/config?deep_link=x", "/de/x", "/logout", "/gradio_api",
    ],
)  # fmt: skip
def test_gradio_s_other_routes_are_not_there(served, path):
    answer = client(served).get(path, follow_redirects=False)
    assert answer.status_code == 404
    assert answer.json()["detail"] == EN["server.no_such_address"]


@pytest.mark.parametrize(
    "route", ["vibe-edit", "vibe-code", "undo-vibe-edit", "component_server", "stream/x"]
)
def test_nothing_else_is_run(served, route):
    assert client(served).post(f"/gradio_api/{route}", json={"session_hash": "a"}).status_code == 404
    for method in ("PUT", "DELETE", "PATCH"):
        assert client(served).request(method, f"/gradio_api/{route}").status_code == 405


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt install chromium)")
def test_a_page_of_another_site_that_leads_here_leaves_open_pages_their_case(served, tmp_path):
    (tmp_path / "photo.png").write_bytes(png())
    with browser() as chromium:
        clinician = Clinician(chromium, f"{served}/")
        clinician.accept()
        other = clinician.context.new_page()
        other.route("https://elsewhere.example/", lambda route: route.fulfill(body="elsewhere"))
        other.goto("https://elsewhere.example/")
        other.evaluate("url => { location.href = url; }", f"{served}/")
        other.wait_for_selector("#accept input")
        clinician.add(tmp_path / "photo.png", 1)


# ---- log-ins


def log_in(browser: httpx.Client, password: str = PASSWORD, **fields: str) -> httpx.Response:
    return browser.post("/login", data={"username": "anna", "password": password, **fields})


def test_a_stranger_gets_the_log_in_and_nothing_else(locked):
    stranger = client(locked)
    for path in ("/", "/de"):
        shown = stranger.get(path)
        assert 'type="password"' in shown.text
        assert "gradio" not in shown.text.lower()
    assert stranger.get("/health").json() == {"status": "ok"}
    for path in (
        "/config",
        "/assets/index.js",
        "/theme.css",
        "/gradio_api/heartbeat/x",
        "/gradio_api/app_id",
    ):
        assert stranger.get(path).status_code == 401, path
    for path in ("upload", "queue/join", "run/x", "cancel", "vibe-code"):
        answer = stranger.post(f"/gradio_api/{path}", json={})
        assert (answer.status_code, answer.json()["detail"]) == (401, EN["server.logged_out"])
    assert stranger.post("/logout").status_code == 401
    assert stranger.get("/logout").status_code == 401


def test_logging_in_and_out(locked):
    browser = client(locked)
    wrong = log_in(browser, "wrong horse")
    assert (wrong.status_code, wrong.json()["detail"]) == (400, EN["server.wrong_login"])
    done = log_in(browser, PASSWORD)
    cookie = done.headers["set-cookie"]
    assert {"httponly", "samesite=strict", f"max-age={logins.MAX_SECONDS}"} <= set(cookie.lower().split("; "))
    assert PASSWORD not in cookie
    assert browser.get("/config").status_code == 200
    assert browser.get("/logout").status_code == 404, "no link logs anybody out"
    assert browser.get("/config").status_code == 200
    left = browser.post("/logout", follow_redirects=False)
    assert (left.status_code, left.headers["location"]) == (303, "/")
    assert browser.get("/config").status_code == 401
    name, value = cookie.split(";")[0].split("=", 1)
    browser.cookies.set(name, value)
    assert browser.get("/config").status_code == 401, "the old cookie is worth nothing"


def test_a_log_in_of_too_many_fields_is_refused(locked):
    answer = client(locked).post("/login", content="&".join(["name=x"] * 11))
    assert (answer.status_code, answer.json()["detail"]) == (400, EN["server.no_json"])


def test_the_form_leads_to_the_page_it_stood_in_place_of(locked):
    browser = client(locked)
    browser.headers["accept"] = "text/html"
    assert 'name="page" value="/de"' in browser.get("/de").text
    for page, led_to in (("/de", "/de"), ("https://elsewhere.example", "/"), ("//x", "/"), ("/config", "/")):
        done = log_in(browser, page=page)
        assert (done.status_code, done.headers["location"]) == (303, led_to)


def test_wrong_passwords_are_slowed_down_and_say_so(folder):
    blocks, url = serve(PASSWORD)
    try:
        browser = client(url)
        browser.headers["accept"] = "text/html"
        assert EN["server.wrong_login"] in log_in(browser, "<script>").text
        statuses = [log_in(client(url), "wrong horse").status_code for _ in range(4)]
        assert statuses == [400, 400, 429, 429]
        slow = log_in(browser)
        assert (slow.status_code, slow.headers["retry-after"]) == (429, "1")
        assert EN("server.too_soon", seconds=1) in slow.text
        time.sleep(1)
        assert log_in(browser).status_code == 303
    finally:
        blocks.close(verbose=False)


def test_an_ended_log_in_keeps_the_page_and_its_case(folder, monkeypatch):
    blocks, url = serve(PASSWORD)
    try:
        browser = client(url)
        log_in(browser)
        page = Page.__new__(Page)
        page.http, page.session = browser, "thepage"
        page.read_config()
        page.begin()
        page.add(png())
        body, _ = page.body("save-json", "click")
        monkeypatch.setattr(logins, "IDLE_SECONDS", -1)
        assert page.send(body).json()["detail"] == EN["server.logged_out"]
        assert 'type="password"' in browser.get("/").text
        monkeypatch.undo()
        log_in(browser)
        assert "base64" in json.dumps(page.call("save-json", "click")), "it is still there"
        browser.post("/logout")
        log_in(browser)
        assert "base64" not in json.dumps(page.call("save-json", "click")), "a log-out wipes it"
    finally:
        blocks.close(verbose=False)


def test_another_rater_in_the_same_browser_does_not_get_the_page(folder, tmp_path):
    run = answers.read_run(make_run(tmp_path / "run", num_cases=2))
    desk = Desk(Store(run.folder), select(run, run.folder, None, None))
    for name in ("anna", "bert"):
        desk.store.add_rater(name, PASSWORD)
    address = demo.Address(port=free_port())
    blocks = gradio_app.launch(
        review_page.build(desk),
        address,
        {"status": "ok"},
        EN,
        access=logins.Access(desk.store.login, per_name=True),
    )
    try:
        browser = client(f"http://127.0.0.1:{address.port}")
        log_in(browser)
        page = Page.__new__(Page)
        page.http, page.session = browser, "annas-page"
        page.read_config()
        body, _ = page.body("save", "click")
        assert page.send(body).status_code == 200
        log_in(browser, username="bert")
        assert page.send(body).json()["detail"] == EN["server.foreign_page"], "anna's form is not bert's"
    finally:
        blocks.close(verbose=False)
