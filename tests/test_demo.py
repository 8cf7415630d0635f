"""The local page, driven without a network: a stub stands for the chat session."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

import demo
from skingpt4 import checkpoint
from skingpt4.chat import CLINICAL_PROMPTS, DISCLAIMER, ChatError
from skingpt4.config import Config, LanguageConfig, PromptConfig, to_dict
from skingpt4.serving import AddressError

demo.stay_local()

from skingpt4 import page  # noqa: E402  (Gradio reads the environment when it is imported)

ABOUT = page.About(
    "runs/x/checkpoints/1", "step 2", "tiny", ("What is wrong with my skin?",), demo.DEMONSTRATION
)
SETTINGS = (0.0, 1, 160, 0)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # gr.Warning outside a running page


class Stub:
    """What the page needs of a `ChatSession`."""

    def __init__(self, words=("it ", "is ", "<b>red</b> "), error=None):
        self.words, self.error = words, error
        self.asked, self.images, self.stopping = [], [], threading.Event()

    def add_image(self, image):
        self.images.append(image)

    def stream(self, question, generation):
        self.stopping.clear()
        self.asked.append((question, generation))
        for word in self.words:
            if self.stopping.is_set():
                return
            yield word
        if self.error:
            raise self.error

    def stop(self):
        self.stopping.set()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "private"))
    monkeypatch.setattr(page, "PREVIEW_SECONDS", 0.0)
    (tmp_path / "private").mkdir()
    return tmp_path / "private"


def upload(folder: Path, name: str = "John Doe.jpg") -> dict[str, str]:
    picture = Image.new("RGB", (40, 30), "tan")
    exif = picture.getexif()
    exif[0x0112], exif[0x010E] = 6, "taken at home"  # turned by 90 degrees; a description
    picture.save(folder / name, exif=exif)
    return {"path": str(folder / name)}


def visit_of(stub: Stub, folder: Path) -> tuple[page.Desk, page.Visit]:
    desk = page.Desk(lambda: stub)
    return desk, desk.show(None, upload(folder))[0]


def test_answer_streams_in_order_and_stays(folder):
    stub = Stub()
    desk, visit = visit_of(stub, folder)
    steps = list(desk.ask(visit, " What is it? ", *SETTINGS, typed=True))
    said = [step.messages[-1]["content"] for step in steps]
    assert said == ["What is it?", "it ", "it is ", "it is <b>red</b> ", "it is <b>red</b> "]
    assert [step.busy for step in steps] == [True, True, True, True, False]
    assert steps[0].question == "", "the text box is emptied at once"
    assert all(step.question is None for step in steps[1:]), "and then left to the next question"
    list(desk.ask(visit, "And now?", 0.5, 3, 32, 7))
    assert [m["role"] for m in visit.messages] == ["user", "assistant"] * 2
    drawn = stub.asked[1][1]
    assert (drawn.temperature, drawn.num_beams, drawn.max_new_tokens, drawn.seed) == (0.5, 3, 32, 7)


def test_picture_is_cleaned_and_its_file_deleted(folder):
    stub, sent = Stub(), upload(folder)
    visit, shown, step = page.Desk(lambda: stub).show(None, sent)
    assert stub.images[0].getexif() == {}
    assert (Image.open(shown).size, Image.open(shown).info) == ((30, 40), {})
    assert "John" not in shown
    assert "new conversation" in step.note
    deadline = time.monotonic() + 5
    while Path(sent["path"]).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(sent["path"]).exists(), "the file as sent does not stay"
    visit.forget()
    assert not Path(shown).exists()


def test_new_picture_starts_anew_and_drops_a_running_answer(folder):
    stubs = [Stub(), Stub()]
    made = iter(stubs)
    desk = page.Desk(lambda: next(made))
    visit, first, _ = desk.show(None, upload(folder))
    running = desk.ask(visit, "What?", *SETTINGS)
    next(running), next(running)
    again, second, step = desk.show(visit, upload(folder, "other.jpg"))
    assert again is visit
    assert (step.messages, step.busy) == ([], False)
    assert list(running) == [step], "nothing of the old answer reaches the new page"
    assert stubs[0].stopping.is_set()
    assert visit.session is stubs[1]
    assert (Path(first).exists(), Path(second).exists()) == (False, True)
    assert list(desk.ask(visit, "What?", *SETTINGS))[-1].messages[0]["content"] == "What?"


def test_clear_deletes_everything(folder):
    desk, visit = visit_of(Stub(), folder)
    list(desk.ask(visit, "What?", *SETTINGS))
    copy = visit.picture
    _, shown, step = desk.show(visit, None)
    assert (shown, step.messages, visit.session, copy.exists()) == (None, [], None, False)
    assert "deleted" in step.note
    assert desk.show(None, None) == (None, None, page.Shown()), "there was nothing to delete"


def test_stop_keeps_what_was_written(folder):
    desk, visit = visit_of(Stub(), folder)
    running = desk.ask(visit, "What?", *SETTINGS)
    next(running), next(running)
    desk.stop(visit)
    last = list(running)[-1]
    assert last.messages[-1]["content"] == "it "
    assert (last.busy, "Stopped" in last.note, visit.answering) == (False, True, None)
    desk.stop(None)  # nothing is being written: nothing happens
    desk.stop(visit)
    assert list(desk.ask(visit, "And?", *SETTINGS))[-1].messages[-1]["content"] == "it is <b>red</b> "


def test_closed_page_ends_its_answer(folder):
    stub = Stub()
    desk, visit = visit_of(stub, folder)
    running = desk.ask(visit, "What?", *SETTINGS)
    next(running), next(running)
    running.close()
    assert (stub.stopping.is_set(), visit.answering) == (True, None)


def test_two_pages_know_nothing_of_each_other(folder):
    desk = page.Desk(Stub)
    a, b = (desk.show(None, upload(folder, name))[0] for name in ("a.jpg", "b.jpg"))
    list(desk.ask(a, "Only mine", *SETTINGS))
    assert a.session is not b.session
    assert (len(a.messages), b.messages, b.session.asked) == (2, [], [])
    desk.show(a, None)
    assert b.picture.exists()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ChatError("the conversation has 2000 tokens"), "2000 tokens"),
        (MemoryError(), "Out of memory"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), "Out of memory"),
        (ZeroDivisionError("<oops>"), "ZeroDivisionError: &lt;oops&gt;"),
    ],
)
def test_failed_answer_says_why_and_leaves_the_conversation(folder, error, words):
    stub = Stub()
    desk, visit = visit_of(stub, folder)
    list(desk.ask(visit, "Fine?", *SETTINGS))
    stub.error = error
    last = list(desk.ask(visit, "Long?", *SETTINGS, typed=True))[-1]
    assert words in last.note
    assert 'role="alert"' in last.note
    assert (len(last.messages), last.question, last.busy) == (2, "Long?", False)
    stub.error = None
    assert len(list(desk.ask(visit, "Again?", *SETTINGS))[-1].messages) == 4


@pytest.mark.parametrize(
    ("question", "settings", "words"),
    [
        ("  ", SETTINGS, "question is empty"),
        ("What?", (0.0, 1, 160, None), "setting is empty"),
        ("What?", (-1.0, 1, 160, 0), "temperature must be"),
    ],
)
def test_question_that_cannot_be_asked(folder, question, settings, words):
    desk, visit = visit_of(Stub(), folder)
    (only,) = desk.ask(visit, question, *settings, typed=True)
    assert words in only.note
    assert only.question == question


def test_no_picture_yet():
    (only,) = page.Desk(Stub).ask(None, "What is it?", *SETTINGS, typed=True)
    assert "There is no picture yet" in only.note
    assert (only.question, only.messages) == ("What is it?", [])


def test_second_question_waits_for_the_first(folder):
    desk, visit = visit_of(Stub(), folder)
    running = desk.ask(visit, "First?", *SETTINGS)
    next(running)
    (refused,) = desk.ask(visit, "Second?", *SETTINGS)
    assert "is being written" in refused.note
    assert refused.busy, "stop stays within reach"
    assert len(list(running)[-1].messages) == 2


def test_unreadable_picture(folder):
    (folder / "notes.jpg").write_text("no picture")
    visit, shown, step = page.Desk(Stub).show(None, {"path": str(folder / "notes.jpg")})
    assert "is no picture that can be read" in step.note
    assert str(folder) not in step.note
    assert (shown, visit.session) == (None, None)


def test_page_offers_and_says_what_it_must():
    config = page.build(page.Desk(Stub), ABOUT).get_config_file()
    text = str(config["components"])
    for words in (
        DISCLAIMER,
        "stay on this machine",
        ABOUT.checkpoint,
        "no clinical meaning",
        *page.STUDY_LABELS,
    ):
        assert words in text
    assert ABOUT.questions[0] in text
    named = ("textbox", "slider", "number", "image", "chatbot", "accordion")
    unnamed = [c["type"] for c in config["components"] if c["type"] in named and not c["props"].get("label")]
    assert unnamed == [], "every control has a label"
    assert all(d["api_visibility"] == "private" for d in config["dependencies"])
    opened = page.build(page.Desk(Stub), ABOUT, local=False).get_config_file()
    assert "the machine that serves" in str(opened["components"])


def test_buttons_ask_the_published_questions(folder):
    stub = Stub()
    desk, visit = visit_of(stub, folder)
    blocks = page.build(desk, ABOUT)
    asking = [f.fn for f in blocks.fns.values() if getattr(f.fn, "keywords", {}).get("text")]
    for fn in asking:
        chat = list(fn(visit, *SETTINGS))[-1][0]
    assert [question for question, _ in stub.asked] == [*CLINICAL_PROMPTS, *ABOUT.questions]
    assert chat[-1]["content"] == "it is &lt;b&gt;red&lt;/b&gt; ", "the chat shows text, never markup"


def test_describe_reads_the_card(tmp_path, monkeypatch):
    config = Config(step="step2", output_dir="o", language=LanguageConfig(model="weights/tiny"))
    config.prompt = PromptConfig(questions=["What is it?"])
    config.data.train = ["runs/phantoms/step2/manifest.jsonl"]
    card = {"step": "step2", "iteration": 200, "config": to_dict(config)}
    monkeypatch.chdir(tmp_path)
    checkpoint.save(Path("run/checkpoints/200"), {}, card)
    about = demo.describe(config, "run")
    assert about == page.About(
        "run/checkpoints/200",
        "step 2 (diagnoses), iteration 200",
        "tiny",
        ("What is it?",),
        demo.DEMONSTRATION,
    )
    assert demo.describe(config, None).caution == demo.UNTRAINED


def test_command_line(capsys):
    args = demo.parser().parse_args(["--config", "c.yaml"])
    assert (args.host, args.port, args.max_upload_mb, args.checkpoint) == ("127.0.0.1", 7860, 20, None)
    with pytest.raises(SystemExit):
        demo.parser().parse_args(["--share"])
    capsys.readouterr()
    assert demo.main(["--config", "nowhere.yaml", "--port", str(free_port())]) == 1
    assert demo.main(["--port", str(free_port())]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert errors[0].startswith("error: nowhere.yaml: no such config")
    assert errors[1].startswith("error: give --config or --checkpoint")


def test_address(capsys):
    for host in ("127.0.0.1", "localhost"):
        demo.Address(host, free_port()).check()
    assert capsys.readouterr().err == ""
    demo.Address("0.0.0.0", free_port()).check()
    assert "pictures of patients could leave" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=f"port {port}: another program"):
            demo.Address(port=port).check()
    for wrong in (demo.Address(port=70000), demo.Address(port=0), demo.Address("no.such.host.invalid")):
        with pytest.raises(AddressError):
            wrong.check()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@pytest.fixture
def served():
    address = demo.Address(port=free_port())
    blocks = demo.launch(page.Desk(Stub), ABOUT, address)
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
    assert health == {"status": "ok", "checkpoint": ABOUT.checkpoint}
    if Path("/proc/net/tcp").exists():
        assert listening(port) == {"0100007F"}, "127.0.0.1 and nothing else"
    foreign = urllib.request.Request(url, headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(foreign)


def test_sigterm_ends_cleanly_and_leaves_no_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    seen = []

    def end():
        seen.extend(path.stat().st_mode & 0o777 for path in tmp_path.glob("skingpt4-*"))
        os.kill(os.getpid(), signal.SIGTERM)

    timer = threading.Timer(1.5, end)
    timer.start()
    try:
        demo.serve(page.Desk(Stub), ABOUT, demo.Address(port=free_port()))
    finally:
        timer.join()
        for name, handler in before.items():
            signal.signal(name, handler)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("open http://127.0.0.1:")
    assert said[-1] == "stopped"
    assert seen == [0o700], "one private folder while it served"
    assert list(tmp_path.glob("skingpt4-*")) == [], "and none afterwards"
