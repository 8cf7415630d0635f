"""In a real browser: pictures whose type it does not know are taken, and a live photo's film is left out."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import demo

demo.stay_local()

from skingpt4.chat.texts import load  # noqa: E402
from skingpt4.records.images import prepare_pillow  # noqa: E402
from tests.support.page_driver import CHROMIUM, Clinician, browser  # noqa: E402
from tests.support.page_stub import tools  # noqa: E402
from tests.support.ports import free_port  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt install chromium)")
FORMATS = {
    "photo.JPG": "JPEG", "saved.jfif": "JPEG", "saved.JFIF": "JPEG", "noname": "JPEG", "from chat.jpg.2": "JPEG",
    "IMG_0001.HEIC": "HEIF", "photo.heif": "HEIF", "photo.HEIF": "HEIF", "scan.jp2": "JPEG2000",
    "SCAN.JP2": "JPEG2000",
    "scan.TIF": "TIFF", "photo.avif": "AVIF", "photo.AVIF": "AVIF", "50% #1 皮疹.jpg": "JPEG",
}  # fmt: skip
# Drops, or pastes, files of these names, contents and types, as a file manager does.
DROP = """([target, files]) => {
  const sent = new DataTransfer();
  for (const [name, data, type] of files)
    sent.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name, {type}));
  const how = {dataTransfer: sent, bubbles: true, cancelable: true};
  const element = document.querySelector(target);
  element.dispatchEvent(new DragEvent("dragenter", how));
  element.dispatchEvent(new DragEvent("drop", how)); }"""
PASTE = """files => {
  const sent = new DataTransfer();
  for (const [name, data, type] of files)
    sent.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name, {type}));
  const how = {clipboardData: sent, bubbles: true, cancelable: true};
  document.body.dispatchEvent(new ClipboardEvent("paste", how)); }"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    prepare_pillow()
    folder = tmp_path_factory.mktemp("files")
    for name, kind in FORMATS.items():
        Image.new("RGB", (96, 64), "tan").save(folder / name, kind)
    (folder / "IMG_0001.MOV").write_bytes(b"\0\0\0\x14ftypqt  " + bytes(500))
    (folder / "notes").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def clinician(tmp_path_factory) -> Iterator[Clinician]:
    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("private"))
    address = demo.Address(port=free_port())
    blocks = demo.launch(tools(), address)
    with browser() as chromium:
        opened = Clinician(chromium, f"http://127.0.0.1:{address.port}")
        opened.accept()
        yield opened
        assert (opened.foreign, opened.errors) == ([], [])
        opened.close()
    blocks.close(verbose=False)
    del os.environ["GRADIO_TEMP_DIR"]


@pytest.fixture(autouse=True)
def empty(clinician):
    yield
    page = clinician.page
    if page.locator("#gallery .views > li").count():
        page.click("#remove")
        page.wait_for_selector("#gallery .views", state="detached")


def part(path: Path, kind: str = "") -> list[str]:
    return [path.name, base64.b64encode(path.read_bytes()).decode(), kind]


@pytest.mark.parametrize("name", FORMATS)
def test_a_picture_is_taken_whatever_its_name(name, clinician, files):
    clinician.add(files / name, 1)
    assert load("en")("pictures.added", number=1) in clinician.page.inner_text("#note")


def test_the_dialog_shows_files_without_a_type(clinician, files):
    page = clinician.page
    with page.expect_file_chooser() as chooser:
        page.click(
            "#picture button:has(input[type=file]), #picture input[type=file] + button, #picture .wrap"
        )
    assert page.get_attribute("#picture input[type=file]", "accept") in ("", None)
    chooser.value.set_files(str(files / "IMG_0001.HEIC"))
    page.wait_for_selector("#gallery .views > li img")


@pytest.mark.parametrize("kind", ["video/quicktime", ""])
def test_a_live_photo_gives_its_still(kind, clinician, files):
    film = part(files / "IMG_0001.MOV", kind)
    page = clinician.page
    page.evaluate(DROP, ["#picture button, #picture .wrap", [film, part(files / "IMG_0001.HEIC")]])
    page.wait_for_selector("#gallery .views > li img")
    assert page.locator("#gallery .views > li").count() == 1


def test_a_pasted_file_without_a_type_is_taken(clinician, files):
    clinician.page.evaluate(PASTE, [part(files / "IMG_0001.HEIC")])
    clinician.page.wait_for_selector("#gallery .views > li img")


def test_what_is_no_picture_is_refused_in_a_sentence(clinician, files):
    page = clinician.page
    page.set_input_files("#picture input[type=file]", str(files / "notes"))
    page.wait_for_selector(f"#note >> text={load('en')['errors.picture_not_an_image'][:30]}")
    page.set_input_files("#picture input[type=file]", str(files / "IMG_0001.MOV"))
    page.wait_for_selector("text=Invalid file type")
    assert page.locator("#gallery .views > li").count() == 0
