"""A complete consultation in headless Chromium on a tiny random model, at desktop and phone width."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageFilter

import demo

demo.stay_local()

from data.phantoms.splits import render_phantom  # noqa: E402
from skingpt4.chat.session import ChatSession  # noqa: E402
from skingpt4.chat.texts import load  # noqa: E402
from skingpt4.checkpoints.identity import model_identity  # noqa: E402
from skingpt4.generation.questions import CLINICAL_PROMPTS  # noqa: E402
from skingpt4.server.page import tools as page_tools  # noqa: E402  (Gradio reads the environment on import)
from tests.support.page_driver import CHROMIUM, TIMEOUT_MS, Clinician, browser, contrasts  # noqa: E402
from tests.support.ports import free_port  # noqa: E402
from tests.support.tiny import make_encoder, make_model, save_language_model, tiny_config  # noqa: E402
from tests.test_demo import holding, wait_until  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt install chromium)")
SHOTS = os.environ.get(
    "SKINGPT4_SCREENSHOTS"
)  # a folder for the pictures of the page; the test's own otherwise


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> tuple[Path, Path]:
    """A phantom with EXIF data, large and sharp enough; and the same out of focus."""
    folder = tmp_path_factory.mktemp("pictures")
    picture = Image.fromarray(render_phantom(seed=3, split="train", index=1, size=800).image)
    exif = picture.getexif()
    exif[0x010E] = "taken at home"
    sharp, blurred = folder / "John Doe.png", folder / "blurred.png"
    picture.save(sharp, exif=exif)
    picture.filter(ImageFilter.GaussianBlur(12)).save(blurred)
    return sharp, blurred


class Paced(ChatSession):
    """Waits in the middle of an answer while `gate` is closed, so that a test sees it while it is written."""

    gate, asked_to_stop = threading.Event(), threading.Event()
    gate.set()

    def stream(self, question, generation):
        answer = ""
        for piece in super().stream(question, generation):
            yield piece
            answer += piece
            if answer.strip():
                self.gate.wait(2 * TIMEOUT_MS / 1000)

    def stop(self):
        super().stop()
        self.asked_to_stop.set()


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("model")
    private = tmp_path_factory.mktemp("private")
    os.environ["GRADIO_TEMP_DIR"] = str(private)
    save_language_model(folder / "llama", max_position_embeddings=4096)  # room for four long answers
    config = tiny_config(folder, output_dir=str(folder / "run"))
    config.prompt.questions = ["What is wrong with my skin?"]
    model = make_model(folder, encoder=make_encoder())
    tools = page_tools.for_model(model, config, model_identity(config, None))
    tools = dataclasses.replace(tools, new_session=lambda: Paced(model, config))
    address = demo.Address(port=free_port())
    blocks = demo.launch(tools, address)
    yield f"http://127.0.0.1:{address.port}"
    wait_until(lambda: not holding(blocks))  # a page that is closed leaves nothing in memory
    blocks.close(verbose=False)
    del os.environ["GRADIO_TEMP_DIR"]
    assert [path for path in private.rglob("*") if path.is_file()] == [], "no picture was left behind"


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    with browser() as started:
        yield started


def test_consultation(url, chromium, pictures, tmp_path):
    texts, shots = load("en"), Path(SHOTS or tmp_path)
    clinician = Clinician(chromium, url)
    page = clinician.page
    assert page.is_disabled("#begin"), "the disclaimer has to be accepted"
    assert not page.is_visible("#picture")
    clinician.shot(shots / "welcome_desktop.png")
    clinician.accept()

    sharp, blurred = pictures
    clinician.add(blurred, 1)
    assert texts["quality.blurred.retake"] in page.inner_text("#gallery")
    clinician.shot(shots / "gate_desktop.png")
    page.click("#study0")
    page.wait_for_selector(f"#note >> text={texts['errors.held_picture'][:40]}")
    page.check("#view input[value=middle]")
    page.set_input_files("#picture input[type=file]", str(sharp))
    page.wait_for_selector(f"#gallery >> text={texts['pictures.middle']} view")
    assert page.locator("#gallery .views > li").count() == 1, "the retake took the place of the blurred one"
    clinician.use_anyway()  # what a phantom is worth to the gate does not matter here
    clinician.add(blurred, 2)
    assert clinician.use_anyway()
    page.wait_for_selector(f"#gallery >> text={texts['pictures.overridden']}")

    for number, question in enumerate(CLINICAL_PROMPTS):
        Paced.gate.clear()
        page.click(f"#study{number}")
        begun = clinician.begun(number + 1)
        Paced.gate.set()
        assert len(clinician.ended(number + 1)) > len(begun), (
            "its beginning was shown before its end was written"
        )
        assert page.locator("#chat .user.message").nth(number).inner_text().strip() == question
        if number == 0:
            page.wait_for_selector("#scores .bars li")
    assert page.locator("#scores .bars li").count() == 15
    assert page.locator("#scores .maps img").count() == 2
    assert texts["not_a_diagnosis"][:16] in page.inner_text("#disclaimer")
    clinician.shot(shots / "consultation_desktop.png")
    for folded in ("#history", "#settings"):
        page.click(f"{folded} button")
        page.wait_for_selector(f"{folded} input >> visible=true")
    assert contrasts(page) == [], "text that is hard to read"

    saved = {kind: clinician.save(kind) for kind in ("html", "pdf", "json")}
    record = json.loads(saved["json"])
    assert [turn["question"] for turn in record["turns"]] == list(CLINICAL_PROMPTS)
    assert [shown["overridden"] for shown in record["pictures"]][-1] is True
    assert [shown["view"] for shown in record["pictures"]] == ["middle", "middle"]
    assert saved["pdf"].startswith(b"%PDF")
    assert b"taken at home" not in b"".join(saved.values())
    assert b"John Doe" not in b"".join(saved.values())

    page.click("#delete")
    page.click("#delete-yes")
    for shown in ("#gallery .views", "#chat .message", "#scores .bars"):
        page.wait_for_selector(shown, state="detached")
    assert (clinician.foreign, clinician.errors) == ([], [])
    clinician.close()


def test_phone_in_german_and_the_dark(url, chromium, pictures, tmp_path):
    texts, shots = load("de"), Path(SHOTS or tmp_path)
    clinician = Clinician(chromium, f"{url}/de", "phone", "dark")
    page = clinician.page
    assert page.evaluate("document.documentElement.lang") == "de"
    clinician.shot(shots / "welcome_phone.png")
    clinician.accept()
    clinician.add(pictures[0], 1)
    clinician.use_anyway()
    clinician.ask("#study0", 1)
    page.wait_for_selector("#scores .bars li")
    clinician.shot(shots / "consultation_phone.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing is cut off at the side"
    assert contrasts(page) == [], "text that is hard to read"
    assert texts["not_a_diagnosis"][:14] in page.inner_text("#disclaimer")
    assert (clinician.foreign, clinician.errors) == ([], [])
    clinician.close()


def test_stop_again_and_change(url, chromium, pictures):
    """An answer that is stopped stays; it can be written again; the question can be changed.

    That nothing more is computed after a stop is a test of `ChatSession`; this tiny model is faster than any click.
    """
    texts = load("en")
    clinician = Clinician(chromium, url)
    page = clinician.page
    clinician.accept()
    clinician.add(pictures[0], 1)
    clinician.use_anyway()
    Paced.gate.clear()
    Paced.asked_to_stop.clear()
    page.click("#study0")
    clinician.begun(1)
    page.click("#stop")
    assert Paced.asked_to_stop.wait(TIMEOUT_MS / 1000)
    Paced.gate.set()
    stopped = clinician.ended(1)
    page.wait_for_selector("#scores .bars li")  # whose note takes that place while it is scored
    page.wait_for_selector(f"#note >> text={texts['chat.stopped']}")
    page.click("#regenerate")
    page.wait_for_selector(f"#note >> text={texts['chat.same_again']}")  # said at its end
    assert clinician.ended(1).startswith(stopped)
    page.click("#edit")
    page.wait_for_function(
        "q => document.querySelector('#question textarea').value === q", arg=CLINICAL_PROMPTS[0]
    )
    page.fill("#question textarea", "Is it red?")
    page.click("#ask")
    page.wait_for_selector("#chat .user.message >> text=Is it red?")
    clinician.ended(1)
    assert page.locator("#chat .user.message").count() == 1, "it took the place of the other"
    assert (clinician.foreign, clinician.errors) == ([], [])
    clinician.close()


def test_paste_and_camera(url, chromium, pictures):
    """Ctrl+V anywhere adds a picture, whichever source is open, and so does the camera, which is off afterwards."""
    clinician = Clinician(chromium, url)
    page = clinician.page
    clinician.accept()
    page.focus("#question textarea")
    assert not clinician.paste(pictures[0], "a question from a document"), "text goes where one types"
    assert clinician.paste(pictures[0])
    page.wait_for_selector("#gallery .views > li:nth-child(1) img")
    clinician.use_anyway()
    page.click("#picture button[aria-label='Capture from camera']")
    page.click("#picture [title='grant webcam access'] button")
    page.wait_for_function("document.querySelector('#picture video').videoWidth > 0")
    page.click("#picture button[aria-label='capture photo']")
    page.wait_for_selector("#gallery .views > li:nth-child(2) img")
    clinician.use_anyway()
    page.wait_for_selector("#picture video", state="hidden")
    assert clinician.paste(pictures[1])
    page.wait_for_selector("#gallery .views > li:nth-child(3) img")
    assert (clinician.foreign, clinician.errors) == ([], [])
    clinician.close()


def test_keyboard_alone(url, chromium, pictures):
    """Tab and Enter reach the disclaimer, the upload, a question, and its answer."""
    clinician = Clinician(chromium, url)
    page = clinician.page
    clinician.tab_to("#accept input")
    page.keyboard.press("Space")
    page.wait_for_selector("#begin:not([disabled])")
    clinician.tab_to("#begin")
    assert clinician.focus_is_seen()
    page.keyboard.press("Enter")
    page.wait_for_selector("#picture", state="visible")
    clinician.tab_to("#picture button")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(str(pictures[1]))
    page.wait_for_selector("#anyway", state="visible")
    clinician.tab_to("#anyway")
    page.keyboard.press("Enter")
    page.wait_for_selector("#anyway", state="hidden")
    clinician.tab_to("#question textarea")
    page.keyboard.type("What is it?")
    page.keyboard.press("Enter")
    page.wait_for_selector("#chat .bot.message")
    page.wait_for_selector("#regenerate:not([disabled])")
    clinician.close()
