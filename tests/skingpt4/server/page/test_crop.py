"""A part of a picture: cut where the frame is, beside the untouched original, asked about alone or together."""

import pytest

from skingpt4.chat.exporting.export import to_html
from skingpt4.chat.exporting.record import from_json
from skingpt4.chat.texts import load
from skingpt4.server.page import crop, markup
from skingpt4.server.page.handlers import Handlers
from skingpt4.server.page.state import MAX_IMAGES
from tests.support.page_stub import SETTINGS, tools

TEXTS = load("en")


@pytest.fixture
def case(tmp_path):
    from PIL import Image

    page = Handlers(tools(), TEXTS)
    state, path = page.begin(), tmp_path / "a.png"
    image = Image.new("RGB", (400, 200), "tan")
    image.paste("red", (300, 100, 400, 200))
    image.save(path)
    page.add_image(state, {"path": str(path)}, "close")
    return page, state


@pytest.mark.parametrize(
    ("place", "box"),
    [((50, 50, 50), (100, 50, 300, 150)), ((0, 0, 50), (0, 0, 200, 100)), ((100, 100, 25), (300, 150, 400, 200)),
     ((50, 50, 100), (0, 0, 400, 200))],
)  # fmt: skip
def test_the_frame_stays_inside(place, box):
    assert crop.box_of(400, 200, *place) == box


def test_the_part_alone_is_asked_about_and_the_original_stays(case):
    page, state = case
    original = state.images[0].shown
    update = crop.add_part(state, (100, 100, 40), crop.ALONE, TEXTS)
    assert "without the original" in update.note
    assert state.images[1].shown.picture.size == (160, 80)
    assert state.images[1].shown.picture.getpixel((150, 70)) == (255, 0, 0)
    assert (original.picture.size, original.part_of) == ((400, 200), None)
    assert TEXTS["part.set_aside"] in markup.gallery(state, TEXTS)
    list(page.ask(state, "What?", SETTINGS))
    assert len(state.session.images) == 1
    again = from_json(state.record.to_json(with_pictures=True))
    assert [shown.asked for shown in again.pictures] == [False, True]
    assert again.pictures[1].part_of["sha256"] == original.sha256
    assert original.sha256 in to_html(again)


def test_both_are_asked_about_on_request(case):
    page, state = case
    crop.add_part(state, (50, 50, 50), crop.BOTH, TEXTS)
    list(page.ask(state, "What?", SETTINGS))
    assert len(state.session.images) == 2
    assert all(shown.asked for shown in state.record.pictures)


def test_a_removed_part_gives_the_original_back(case):
    page, state = case
    crop.add_part(state, (50, 50, 50), crop.ALONE, TEXTS)
    page.remove_image(state)
    assert [image.set_aside for image in state.images] == [False]


def test_what_cannot_be_cut_is_said(case):
    _, state = case
    assert "too small" in crop.add_part(state, (50, 50, 10), crop.BOTH, TEXTS).note
    assert "no picture" in crop.add_part(None, (50, 50, 50), crop.BOTH, TEXTS).note
    for _ in range(MAX_IMAGES - 1):
        crop.add_part(state, (50, 50, 50), crop.BOTH, TEXTS)
    assert "at most" in crop.add_part(state, (50, 50, 50), crop.BOTH, TEXTS).note
    assert len(state.images) == MAX_IMAGES


def test_a_part_is_always_cut_from_an_original(case):
    _, state = case
    for _ in range(2):
        crop.add_part(state, (50, 50, 50), crop.BOTH, TEXTS)
    assert [image.shown.picture.size for image in state.images] == [(400, 200), (200, 100), (200, 100)]


def test_the_preview_shows_the_frame_and_respects_the_cover(case):
    _, state = case
    shown = crop.preview(state, (50, 50, 50), TEXTS, cover=False)
    assert "left:25.00%;top:25.00%;width:50.00%;height:50.00%" in shown
    assert TEXTS["pictures.uncover"] in crop.preview(state, (50, 50, 50), TEXTS, cover=True)
    assert "no picture" in crop.preview(None, (50, 50, 50), TEXTS, cover=False)
