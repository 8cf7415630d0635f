"""The images of a case, the quality gate, saving and deleting; a stub stands for the session."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from PIL import Image

from skingpt4.chat.texts import load
from skingpt4.server.page import markup
from skingpt4.server.page.handlers import Handlers
from skingpt4.server.page.state import MAX_IMAGES
from tests.support.page_stub import SETTINGS, Judged, Stub, poor, tools, upload

TEXTS = load("en")


def handlers_with(**more) -> Handlers:
    return Handlers(tools(**more), TEXTS)


def test_picture_is_cleaned_and_its_file_deleted_at_once(tmp_path):
    page = handlers_with(assess=lambda image: Judged())
    state, sent = page.begin(), upload(tmp_path)
    update = page.add_image(state, sent, "close")
    assert not Path(sent["path"]).exists(), "the file as sent does not stay"
    (image,) = state.images
    assert (image.shown.picture.getexif(), image.shown.picture.size) == ({}, (30, 40))
    assert (image.shown.view, image.held, image.shown.quality["score"]) == ("close", False, 0.9)
    assert "Picture 1 has been added" in update.note
    shown = base64.b64decode(image.url.partition(",")[2])
    assert b"taken at home" not in shown
    assert b"Exif" not in shown
    assert list(tmp_path.rglob("*")) == [], "nothing is written"


def test_gate_holds_back_and_records_an_override(tmp_path):
    events = []
    page = handlers_with(assess=poor, log=lambda event, **facts: events.append((event, facts)))
    state = page.begin()
    update = page.add_image(state, upload(tmp_path), "close")
    assert 'role="alert"' in update.note
    assert state.held_image is state.images[0]
    (refused,) = page.ask(state, "What?", SETTINGS, typed=True)
    assert "not good enough" in refused.note
    assert refused.question == "What?"
    retaken = page.add_image(state, upload(tmp_path, colour="brown"), "middle")
    assert "Picture 1 is not" in retaken.note, "a retake takes its place"
    page.use_anyway(state)
    (image,) = state.images
    assert (image.held, image.shown.overridden, image.shown.view) == (False, True, "middle")
    assert [name for name, _ in events] == [
        "consultation_started",
        *["picture_added"] * 2,
        "quality_overridden",
    ]
    list(page.ask(state, "What?", SETTINGS))
    assert state.record.to_dict()["pictures"][0]["overridden"] is True


def test_several_views_and_no_more_than_fit(tmp_path):
    page = handlers_with()
    state = page.begin()
    for view in ("far", "middle", "close", "close", "close", "close", "close"):
        update = page.add_image(state, upload(tmp_path), view)
    assert [image.shown.view for image in state.images] == ["far", "middle", *["close"] * 4]
    assert f"at most {MAX_IMAGES} pictures" in update.note
    list(page.ask(state, "What?", SETTINGS))
    assert len(state.session.images) == MAX_IMAGES
    assert "remain part" in page.remove_image(state).note
    assert len(state.images) == MAX_IMAGES


@pytest.mark.parametrize("view", ["x", "{0}", None, 5, ["far"], {"far": 1}])
def test_a_view_that_is_none_does_not_spoil_the_case(tmp_path, view):
    page = handlers_with()
    state = page.begin()
    page.add_image(state, upload(tmp_path), view)
    assert state.images[0].shown.view == "close"
    assert "<img" in markup.gallery(state, TEXTS)


def test_last_picture_can_be_removed(tmp_path):
    page = handlers_with()
    state = page.begin()
    page.add_image(state, upload(tmp_path), "far")
    assert "removed" in page.remove_image(state).note
    assert state.images == []
    assert page.remove_image(state).note is None


def test_unreadable_picture_says_why_in_the_language_of_the_page(tmp_path):
    for code, words in (("en", "not a picture that can be read"), ("de", "kein lesbares Bild")):
        page = Handlers(tools(), load(code))
        state = page.begin()
        (tmp_path / "notes.jpg").write_text("no picture")
        update = page.add_image(state, {"path": str(tmp_path / "notes.jpg")}, "far")
        assert words in update.note
        assert str(tmp_path) not in update.note
        assert not (tmp_path / "notes.jpg").exists()
        assert state.images == []
    assert "did not arrive" in handlers_with().add_image(None, {"path": str(tmp_path / "gone")}, "far").note


def test_nothing_is_taken_before_the_disclaimer_is_accepted(tmp_path):
    page = handlers_with()
    sent = upload(tmp_path)
    assert "Accept the disclaimer" in page.add_image(None, sent, "far").note
    assert not Path(sent["path"]).exists()
    (update,) = page.ask(None, "What?", SETTINGS)
    assert "Accept the disclaimer" in update.note


def test_delete_wipes_everything(tmp_path):
    page = handlers_with()
    state = page.begin()
    page.add_image(state, upload(tmp_path), "close")
    list(page.ask(state, "What?", SETTINGS))
    shown, session = state.images[0].shown, state.session
    fresh, update = page.delete(state)
    assert (shown.picture, state.images, state.record.turns, session.turns) == (None, [], [], [])
    assert (session.closed, session.stopping.is_set()) == (True, True)
    assert (fresh.images, fresh.messages(), update.messages) == ([], [], [])
    assert fresh.record.id != state.record.id
    assert "Accept" in page.add_image(state, upload(tmp_path), "far").note, (
        "the old case takes nothing any more"
    )


def test_two_pages_know_nothing_of_each_other(tmp_path):
    page = handlers_with()
    a, b = page.begin(), page.begin()
    for state, colour in ((a, "tan"), (b, "brown")):
        page.add_image(state, upload(tmp_path, f"{colour}.jpg", colour), "close")
    list(page.ask(a, "Only mine", SETTINGS))
    assert a.session is not b.session
    assert (len(a.messages()), b.messages(), b.session.asked) == (2, [], [])
    page.delete(a)
    assert b.images[0].shown.picture is not None


def test_saving_makes_a_file_in_memory(tmp_path):
    page = handlers_with()
    state = page.begin()
    assert page.save(state, None, "json", True)[0] is None
    page.add_image(state, upload(tmp_path), "close")
    list(page.ask(state, "What?", SETTINGS))
    for with_images in (False, True):
        (name, url), note = page.save(state, None, "json", with_images)
        record = json.loads(base64.b64decode(url.partition("base64,")[2]))
        assert name == f"consultation-{record['id']}.json"
        assert name in note
        assert record["turns"][0]["answer"] == "it is <b>red</b>"
        assert ("picture" in record["pictures"][0]) is with_images
        assert record["not_a_diagnosis"]
    assert list(tmp_path.rglob("*")) == []


def test_failed_export_says_why(tmp_path, caplog):
    def broken(record, with_pictures):
        raise ValueError(reason)

    reason = "no paper"
    page = handlers_with(exports={"pdf": broken}, session=Stub)
    state = page.begin()
    page.add_image(state, upload(tmp_path), "close")
    file, note = page.save(state, None, "pdf", True)
    assert file is None
    assert "ValueError: no paper" in note
    assert "Traceback" in caplog.text, "where it came from is logged"
    assert "no paper" not in caplog.text, "and not its message, which may quote what was written"


def test_a_case_holds_no_picture_of_full_size(tmp_path):
    """Six pictures of 80 megapixels were 1.9 GB for as long as the page was open."""
    sizes = []
    page = handlers_with(assess=lambda image: sizes.append(image.size) or Judged())
    state = page.begin()
    Image.new("RGB", (3000, 2000), "tan").save(tmp_path / "large.jpg")
    page.add_image(state, {"path": str(tmp_path / "large.jpg")}, "close")
    (image,) = state.images
    assert sizes == [(3000, 2000)], "the gate judges all of it"
    assert (image.shown.width, image.shown.height, image.shown.picture.size) == (3000, 2000, (1200, 800))
    list(page.ask(state, "What is it?", SETTINGS))
    assert state.session.images[0] is image.pixels, "what the encoder sees is made of all of it"


def test_a_dicom_photograph_is_taken_with_a_warning_and_without_its_names(tmp_path):
    from tests.support.dicom_files import PERSON, photograph

    page = handlers_with()
    state, path = page.begin(), tmp_path / "a.dcm"
    path.write_bytes(photograph(BurnedInAnnotation="YES"))
    update = page.add_image(state, {"path": str(path)}, "close")
    assert "Text is burnt into this picture" in update.note
    assert not path.exists()
    assert state.images[0].shown.picture.size == (48, 32)
    shown = update.note + markup.gallery(state, TEXTS) + state.record.to_json(with_pictures=True)
    assert PERSON not in shown
    assert "Text is burnt into this picture" in markup.gallery(state, TEXTS)


def test_a_dicom_file_without_photograph_says_what_is_read(tmp_path):
    from tests.support.dicom_files import photograph

    page = handlers_with()
    state, path = page.begin(), tmp_path / "ct.dcm"
    path.write_bytes(photograph(sop_class="1.2.840.10008.5.1.4.1.1.2"))
    assert "holds no photograph" in page.add_image(state, {"path": str(path)}, "far").note
    assert state.images == []


def test_every_kind_of_export_is_a_file_of_its_own_name(tmp_path):
    from skingpt4.server.page.handlers import FILES
    from skingpt4.server.page.tools import EXPORTS

    assert set(FILES) == set(EXPORTS)
    page = handlers_with(exports=EXPORTS)
    state = page.begin()
    page.add_image(state, upload(tmp_path), "close")
    names = set()
    for kind, (mime_type, suffix) in FILES.items():
        (name, url), note = page.save(state, None, kind, with_images=False)
        assert name.endswith(suffix)
        assert url.startswith(f"data:{mime_type};base64,")
        assert name in note
        assert TEXTS.has(f"export.{kind}")
        names.add(name)
    assert len(names) == len(FILES)
