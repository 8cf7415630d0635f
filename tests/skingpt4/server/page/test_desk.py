"""Pictures of a case, the gate before them, saving and deleting; a stub stands for the session."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from skingpt4.chat.texts import load
from skingpt4.server.page.desk import Desk
from skingpt4.server.page.talk import Talk
from skingpt4.server.page.visit import MAX_PICTURES, waiting
from tests.support.page_stub import SETTINGS, Judged, Stub, poor, tools, upload

TEXTS = load("en")


def desk_of(**more) -> Desk:
    return Desk(tools(**more), TEXTS)


def test_picture_is_cleaned_and_its_file_deleted_at_once(tmp_path):
    desk = desk_of(assess=lambda image: Judged())
    visit, sent = desk.begin(), upload(tmp_path)
    step = desk.add(visit, sent, "close")
    assert not Path(sent["path"]).exists(), "the file as sent does not stay"
    (view,) = visit.views
    assert (view.shown.picture.getexif(), view.shown.picture.size) == ({}, (30, 40))
    assert (view.shown.view, view.held, view.shown.quality["score"]) == ("close", False, 0.9)
    assert "Picture 1 is added" in step.note
    shown = base64.b64decode(view.url.partition(",")[2])
    assert b"taken at home" not in shown
    assert b"Exif" not in shown
    assert list(tmp_path.rglob("*")) == [], "nothing is written"


def test_gate_holds_back_and_records_an_override(tmp_path):
    events = []
    desk = desk_of(assess=poor, log=lambda event, **facts: events.append((event, facts)))
    visit = desk.begin()
    step = desk.add(visit, upload(tmp_path), "close")
    assert 'role="alert"' in step.note
    assert waiting(visit.views) is visit.views[0]
    (refused,) = Talk(desk.tools, TEXTS).ask(visit, "What?", SETTINGS, typed=True)
    assert "not good enough" in refused.note
    assert refused.question == "What?"
    retaken = desk.add(visit, upload(tmp_path, colour="brown"), "middle")
    assert "Picture 1 is not" in retaken.note, "a retake takes its place"
    desk.use_anyway(visit)
    (view,) = visit.views
    assert (view.held, view.shown.overridden, view.shown.view) == (False, True, "middle")
    assert [name for name, _ in events] == [
        "consultation_started",
        *["picture_added"] * 2,
        "quality_overridden",
    ]
    list(Talk(desk.tools, TEXTS).ask(visit, "What?", SETTINGS))
    assert visit.record.to_dict()["pictures"][0]["overridden"] is True


def test_several_views_and_no_more_than_fit(tmp_path):
    desk = desk_of()
    visit = desk.begin()
    for view in ("far", "middle", "close", "close", "close", "close", "close"):
        step = desk.add(visit, upload(tmp_path), view)
    assert [v.shown.view for v in visit.views] == ["far", "middle", *["close"] * 4]
    assert f"at most {MAX_PICTURES} pictures" in step.note
    list(Talk(desk.tools, TEXTS).ask(visit, "What?", SETTINGS))
    assert len(visit.session.images) == MAX_PICTURES
    assert "stay part" in desk.remove(visit).note
    assert len(visit.views) == MAX_PICTURES


def test_last_picture_can_be_removed(tmp_path):
    desk = desk_of()
    visit = desk.begin()
    desk.add(visit, upload(tmp_path), "far")
    assert "removed" in desk.remove(visit).note
    assert visit.views == []
    assert desk.remove(visit).note is None


def test_unreadable_picture_says_why_in_the_language_of_the_page(tmp_path):
    for code, words in (("en", "cannot be read as a picture"), ("de", "kein lesbares Bild")):
        desk = Desk(tools(), load(code))
        visit = desk.begin()
        (tmp_path / "notes.jpg").write_text("no picture")
        step = desk.add(visit, {"path": str(tmp_path / "notes.jpg")}, "far")
        assert words in step.note
        assert str(tmp_path) not in step.note
        assert not (tmp_path / "notes.jpg").exists()
        assert visit.views == []
    assert "did not arrive" in desk_of().add(None, {"path": str(tmp_path / "gone")}, "far").note


def test_nothing_is_taken_before_the_disclaimer_is_accepted(tmp_path):
    desk = desk_of()
    sent = upload(tmp_path)
    assert "Accept the disclaimer" in desk.add(None, sent, "far").note
    assert not Path(sent["path"]).exists()
    (step,) = Talk(desk.tools, TEXTS).ask(None, "What?", SETTINGS)
    assert "Accept the disclaimer" in step.note


def test_delete_wipes_everything(tmp_path):
    desk = desk_of()
    visit = desk.begin()
    desk.add(visit, upload(tmp_path), "close")
    list(Talk(desk.tools, TEXTS).ask(visit, "What?", SETTINGS))
    shown, session = visit.views[0].shown, visit.session
    fresh, step = desk.delete(visit)
    assert (shown.picture, visit.views, visit.record.turns, session.turns) == (None, [], [], [])
    assert (session.closed, session.stopping.is_set()) == (True, True)
    assert (fresh.views, fresh.messages(), step.messages) == ([], [], [])
    assert fresh.record.id != visit.record.id
    assert "Accept" in desk.add(visit, upload(tmp_path), "far").note, "the old case takes nothing any more"


def test_two_pages_know_nothing_of_each_other(tmp_path):
    desk = desk_of()
    talk = Talk(desk.tools, TEXTS)
    a, b = desk.begin(), desk.begin()
    for visit, colour in ((a, "tan"), (b, "brown")):
        desk.add(visit, upload(tmp_path, f"{colour}.jpg", colour), "close")
    list(talk.ask(a, "Only mine", SETTINGS))
    assert a.session is not b.session
    assert (len(a.messages()), b.messages(), b.session.asked) == (2, [], [])
    desk.delete(a)
    assert b.views[0].shown.picture is not None


def test_saving_makes_a_file_in_memory(tmp_path):
    desk = desk_of()
    visit = desk.begin()
    assert desk.save(visit, "json", True)[0] is None
    desk.add(visit, upload(tmp_path), "close")
    list(Talk(desk.tools, TEXTS).ask(visit, "What?", SETTINGS))
    for with_pictures in (False, True):
        (name, url), step = desk.save(visit, "json", with_pictures)
        record = json.loads(base64.b64decode(url.partition("base64,")[2]))
        assert name == f"consultation-{record['id']}.json"
        assert name in step.note
        assert record["turns"][0]["answer"] == "it is <b>red</b>"
        assert ("picture" in record["pictures"][0]) is with_pictures
        assert record["not_a_diagnosis"]
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.filterwarnings("ignore")
def test_failed_export_says_why(tmp_path):
    def broken(record, with_pictures):
        raise ValueError("no paper")

    desk = desk_of(exports={"pdf": broken}, session=Stub)
    visit = desk.begin()
    desk.add(visit, upload(tmp_path), "close")
    file, step = desk.save(visit, "pdf", True)
    assert file is None
    assert "ValueError: no paper" in step.note
