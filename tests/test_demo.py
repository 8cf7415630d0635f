"""The page is served to this machine alone, by a command that says what it needs; a stub stands for the model."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlencode

import pytest

import demo
from skingpt4.chat.texts import load
from skingpt4.server import gradio_app, private_folder
from skingpt4.server.access.options import shared_password
from skingpt4.server.address import AddressError

demo.stay_local()

from tests.support.gradio_page import Page  # noqa: E402  (Gradio reads the environment on import)
from tests.support.page_stub import MODEL, Stub, tools, upload  # noqa: E402
from tests.support.ports import free_port  # noqa: E402

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "private"))
    (tmp_path / "private").mkdir()
    return tmp_path / "private"


def test_without_a_name_the_newest_model_is_served(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundled = Path(demo.default_checkpoint())
    assert bundled == Path(demo.__file__).parent / demo.BUNDLED
    assert (bundled / "checkpoint.json").is_file()
    card = tmp_path / demo.QUICKSTART / "checkpoints" / "iteration_0000001" / "checkpoint.json"
    card.parent.mkdir(parents=True)
    card.write_text("{}")
    assert demo.default_checkpoint() == demo.QUICKSTART


def test_command_line(capsys, monkeypatch):
    args = demo.parser().parse_args(["--config", "c.yaml"])
    assert (args.host, args.port, args.max_upload_mb, args.checkpoint) == ("127.0.0.1", 7860, 20, None)
    assert (args.share, args.password, args.language, args.audit_log) == (False, False, "en", None)
    monkeypatch.setattr(gradio_app, "private_folder", None)  # nothing is served here
    for wrong, words in (
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such config"),
        (["--language", "xx"], "there is no page in the language 'xx'; there are de, en"),
        (["--audit-text"], "--audit-text says what goes into the audit log; add --audit-log FILE"),
        (["--share"], "--share opens the page to whoever learns its link; add --password"),
    ):
        assert demo.main([*wrong, "--port", str(free_port())]) == 1
        (error,) = capsys.readouterr().err.splitlines()
        assert error.startswith(f"error: {words}")


def test_password_is_typed_or_of_the_environment(monkeypatch):
    monkeypatch.delenv(demo.PASSWORD, raising=False)
    monkeypatch.setattr(demo.sys, "stdin", SimpleNamespace(isatty=lambda: False))
    with pytest.raises(demo.UserError, match=f"is empty; type one, or set {demo.PASSWORD}"):
        demo.read_password()  # a service without a terminal
    monkeypatch.setattr(demo.sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(demo.getpass, "getpass", lambda prompt: "typed")
    assert demo.read_password() == "typed"
    monkeypatch.setenv(demo.PASSWORD, "set")
    assert demo.read_password() == "set"
    monkeypatch.setenv(demo.PASSWORD, "")
    monkeypatch.setattr(demo.getpass, "getpass", lambda prompt: "")
    with pytest.raises(demo.UserError, match="is empty"):
        demo.read_password()


def test_help_is_instant():
    code = "import sys, demo; demo.parser().format_help(); print(*{'gradio', 'torch', 'starlette'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [], "what takes seconds is imported after the command line has been parsed"


def test_address(caplog):
    for host in ("127.0.0.1", "localhost"):
        demo.Address(host, free_port()).check()
    assert caplog.text == ""
    demo.Address("0.0.0.0", free_port()).check()
    assert "pictures of patients could leave" in caplog.text
    assert "without a password" in caplog.text
    caplog.clear()
    demo.Address(port=free_port(), share=True).check(password=True)
    assert "LEAVES THIS MACHINE" in caplog.text
    for proxied in ({"names": ("skin.example.org",)}, {"root_path": "/skin"}, {"proxies": ("127.0.0.1",)}):
        caplog.clear()
        demo.Address(port=free_port(), **proxied).check(password=True)
        assert caplog.text == ""
        demo.Address(port=free_port(), **proxied).check()
        assert "whoever reaches the proxy reaches this server" in caplog.text
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=f"port {port}: another program"):
            demo.Address(port=port).check()
    for wrong in (demo.Address(port=70000), demo.Address(port=0), demo.Address("no.such.host.invalid")):
        with pytest.raises(AddressError):
            wrong.check()


@pytest.fixture
def served():
    address = demo.Address(port=free_port())
    blocks = demo.launch(tools(), address)
    yield f"http://127.0.0.1:{address.port}", address.port
    blocks.close(verbose=False)


def listening(port: int) -> set[str]:
    """Addresses, as /proc writes them, on which someone listens to the port."""
    text = "".join(path.read_text() for path in Path("/proc/net").glob("tcp*"))
    words = [line.split() for line in text.splitlines()]
    return {w[1].split(":")[0] for w in words if w[3] == "0A" and w[1].endswith(f":{port:04X}")}


def test_served_to_this_machine_alone(served, folder):
    url, port = served
    with urllib.request.urlopen(url) as answer:
        body, policy = answer.read().decode(), answer.headers["content-security-policy"]
    assert answer.status == 200
    assert not re.search(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?:https?:)?//', body)
    assert "default-src 'self'" in policy
    assert not re.search(r"https?:", policy), "the browser may load nothing from elsewhere"
    assert '"analytics_enabled":false' in body.replace(" ", "")
    theme = urllib.request.urlopen(f"{url}/theme.css").read().decode()
    assert not re.search(r"@import|url\(\s*['\"]?(?:https?:)?//|@font-face", theme)
    health = json.load(urllib.request.urlopen(f"{url}/health"))
    assert health == {"status": "ok", "checkpoint": MODEL["checkpoint"]}
    if Path("/proc/net/tcp").exists():
        assert listening(port) == {"0100007F"}, "127.0.0.1 and nothing else"
    foreign = urllib.request.Request(url, headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(foreign)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_cleanly_and_leaves_no_file(tmp_path, monkeypatch, capsys, ending, request):
    before = signal.signal(ending, signal.SIG_DFL)  # under nohup the page would rightly wait for ever
    request.addfinalizer(lambda: signal.signal(ending, before))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(private_folder, "MEMORY", tmp_path / "none")
    modes, address = [], demo.Address(port=free_port())

    def launched():
        blocks = demo.launch(tools(), address)
        modes.extend(path.stat().st_mode & 0o777 for path in tmp_path.glob("skingpt4-*"))
        threading.Timer(0.2, os.kill, (os.getpid(), ending)).start()  # while it waits, or sooner
        return blocks

    gradio_app.until_ended(launched, address)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("open http://127.0.0.1:")
    assert lines[-1] == "stopped"
    assert modes == [0o700], "one private folder while it served"
    assert list(tmp_path.glob("skingpt4-*")) == [], "and none afterwards"


def test_password_keeps_strangers_out(folder):
    texts = load("en")
    message = f"{texts['not_a_diagnosis']} {texts['login']}"
    address = demo.Address(port=free_port())
    blocks = demo.launch(tools(), address, access=shared_password("grün", message=message))
    url = f"http://127.0.0.1:{address.port}"
    try:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{url}/config")
        assert json.load(urllib.request.urlopen(f"{url}/health"))["status"] == "ok"
        asked = urllib.request.urlopen(url).read().decode()
        assert "Not a diagnosis" in asked
        assert "any user name" in asked, "there are no users, and without a name Gradio says nothing at all"
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        with pytest.raises(urllib.error.HTTPError, match="400"):
            opener.open(f"{url}/login", urlencode({"username": "x", "password": "blau"}).encode())
        opener.open(f"{url}/login", urlencode({"username": "x", "password": "grün"}).encode())
        assert "Not a diagnosis" in opener.open(f"{url}/config").read().decode()
    finally:
        blocks.close(verbose=False)


def holding(blocks) -> set[str]:
    """The sessions that hold a case, or a picture in what they drew."""
    return {
        name
        for name, state in list(blocks.state_holder.session_data.items())
        if any(state.state_data.values()) or "data:image" in repr(state.config_values)
    }


def wait_until(condition) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_closing_the_page_wipes_what_it_held_also_while_it_answers(tmp_path):
    """Gradio keeps the state of a closed page for an hour, and what it drew for good."""
    stubs, answering, go_on = [], threading.Event(), threading.Event()

    class Slow(Stub):
        def stream(self, question, generation):
            yield "It "
            if question == "Slowly?":
                answering.set()
                assert go_on.wait(300)
                yield "is "

    def session():
        stubs.append(Slow())
        return stubs[-1]

    address = demo.Address(port=free_port())
    blocks = demo.launch(tools(session), address)
    try:
        idle, busy, stays = pages = [Page(f"http://127.0.0.1:{address.port}") for _ in range(3)]
        for page in pages:
            page.begin()
            page.add(Path(upload(tmp_path)["path"]).read_bytes())
        assert holding(blocks) == {page.session for page in pages}

        def ask_slowly():
            with contextlib.suppress(Exception):  # it is closed before there is an answer
                busy.ask("Slowly?")

        threading.Thread(target=ask_slowly, daemon=True).start()
        assert answering.wait(300)
        for page in (idle, busy):
            with page.http.stream("GET", f"/gradio_api/heartbeat/{page.session}") as alive:
                next(alive.iter_lines())  # the page is open as long as this goes on
        wait_until(lambda: [stub.closed for stub in stubs] == [True, True, False])
        go_on.set()
        wait_until(lambda: not any(blocks._queue.active_jobs))
        wait_until(lambda: holding(blocks) == {stays.session})
        assert "What is it?" in stays.ask("What is it?"), "another page goes on"
    finally:
        go_on.set()
        blocks.close(verbose=False)
