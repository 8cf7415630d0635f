"""A saved consultation is opened again: everything is there, nothing can be asked, a wrong file changes nothing."""

import base64
import io
import json
import math

import pytest
from PIL import Image

from skingpt4.chat.checks.alarm import Alarm, AlarmReading
from skingpt4.chat.exporting.record import MAX_SIDE
from skingpt4.chat.texts import load
from skingpt4.server.page import markup, reopen
from skingpt4.server.page.handlers import Handlers
from skingpt4.server.page.reopen import OpenButton
from skingpt4.server.page.tools import EXPORTS
from tests.skingpt4.chat.exporting.test_export import full_record
from tests.support.page_stub import SETTINGS, tools, upload

TEXTS = load("en")


@pytest.fixture
def opener():
    import gradio as gr

    with gr.Blocks():
        return OpenButton(TEXTS)


def sent(folder, text):
    path = folder / "saved.json"
    path.write_text(text, encoding="utf-8")
    return {"path": str(path)}


@pytest.mark.parametrize("with_pictures", [True, False])
def test_everything_saved_is_there_again_and_exports_the_same(opener, tmp_path, with_pictures):
    page, record = Handlers(tools(exports=EXPORTS), TEXTS), full_record()
    before = page.begin("ada")
    page.add_image(before, upload(tmp_path), "close")
    file = sent(tmp_path, record.to_json(with_pictures))
    state, note, update = opener.open(page.tools, before, file)
    assert "is open" in note
    assert "Another model" in note
    assert before.ended
    assert not list(tmp_path.iterdir()), "the file as sent does not stay"
    assert state.user == "ada"
    assert update.messages[0]["content"] == "Was ist das?"
    assert "10 %" in markup.differential(state, TEXTS)
    assert ("<img" in markup.gallery(state, TEXTS)) == with_pictures
    assert state.record.to_json() == record.to_json()
    (name, _), _ = page.save(state, None, "html", with_images=True)
    assert record.id in name


def test_nothing_can_be_asked_or_added(opener, tmp_path):
    page = Handlers(tools(), TEXTS)
    state, _, _ = opener.open(page.tools, page.begin(), sent(tmp_path, full_record().to_json(True)))
    assert "saved consultation" in list(page.ask(state, "Why?", SETTINGS))[-1].note
    assert "saved consultation" in list(page.regenerate(state, SETTINGS))[-1].note
    assert "saved consultation" in page.edit(state).note
    assert "saved consultation" in page.add_image(state, upload(tmp_path), "close").note
    assert [update.note for update in page.score(state)] == [None]
    fresh, _ = page.delete(state)
    assert not fresh.is_opened


@pytest.mark.parametrize(
    "text",
    ["", "no JSON", "{}", "[" * 5000, '{"format": "skingpt4.consultation/1"}',
     json.dumps(json.loads(full_record().to_json()) | {"differential": {"ranked": [{"x": 1}]}}),
     json.dumps(json.loads(full_record().to_json()) | {"turns": [3]}),
     full_record(pictures=full_record().pictures * 7).to_json()],
)  # fmt: skip
def test_another_file_changes_nothing(opener, tmp_path, text):
    page = Handlers(tools(), TEXTS)
    before = page.begin()
    page.add_image(before, upload(tmp_path), "close")
    state, note, update = opener.open(page.tools, before, sent(tmp_path, text))
    assert state is before
    assert len(state.images) == 1
    assert not state.ended
    assert "failed unexpectedly" not in note
    assert update.messages is None


def test_a_file_that_is_missing_or_comes_too_early(opener, tmp_path):
    page = Handlers(tools(), TEXTS)
    assert "Accept the disclaimer" in opener.open(page.tools, None, sent(tmp_path, "{}"))[1]
    assert "did not arrive" in opener.open(page.tools, page.begin(), None)[1]


def test_a_huge_picture_in_a_file_is_refused_before_it_is_decoded(opener, tmp_path):
    import base64
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("1", (8000, 8000)).save(buffer, "PNG")
    row = json.loads(full_record().to_json())
    row["pictures"][0]["picture"] = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    page = Handlers(tools(), TEXTS)
    assert (
        "larger than in any export"
        in opener.open(page.tools, page.begin(), sent(tmp_path, json.dumps(row)))[1]
    )


def opened(opener, tmp_path, row):
    """The case that was there, the one afterwards, and the note."""
    page = Handlers(tools(exports=EXPORTS), TEXTS)
    before = page.begin()
    page.add_image(before, upload(tmp_path), "close")
    state, note, _ = opener.open(page.tools, before, sent(tmp_path, json.dumps(row)))
    return before, state, note


SAVED = json.loads(full_record().to_json())
PICTURE, RANKED = SAVED["pictures"][0], SAVED["differential"]


@pytest.mark.parametrize(
    "change",
    [{"pictures": [PICTURE | {"view": "<b>"}]}, {"pictures": [PICTURE | {"remarks": ["x"]}]},
     {"pictures": [PICTURE | {"hash_of": "x"}]}, {"pictures": [PICTURE | {"quality": {"score": "x"}}]},
     {"differential": RANKED | {"ranked": [{"class_name": "x", "disease": "", "probability": 0.5}]}},
     {"differential": RANKED | {"ranked": []}},
     {"differential": RANKED | {"ranked": [RANKED["ranked"][0] | {"probability": math.nan}]}},
     {"differential": RANKED | {"threshold": math.inf, "alarms": [{}]}},
     {"id": "../../x"}, {"id": 5}, {"created": 5}, {"created": "<b>"}, {"disclaimer": None}, {"language": []}],
    ids=lambda change: str(change)[:40],
)  # fmt: skip
def test_what_the_page_cannot_show_is_refused_before_the_case_is_forgotten(opener, tmp_path, change):
    before, state, note = opened(opener, tmp_path, SAVED | change)
    assert state is before
    assert not before.ended
    assert "failed unexpectedly" not in note


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"turns": [3]}, "is of another kind"), ({"pictures": [PICTURE | {"x": 1}]}, "is of another kind"),
     ({"disclaimer": 5}, "its disclaimer is not a text"),
     ({"differential": RANKED | {"red_flags": ["x"] * 501}}, "a list of more than 500 values"),
     ({"history": {f"k{n}": "x" for n in range(501)}}, "a list of more than 500 values")],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_in_words(opener, tmp_path, change, sentence):
    _, _, note = opened(opener, tmp_path, SAVED | change)
    assert sentence in note
    assert "Error" not in note


def test_of_a_language_that_is_not_offered_here(opener, tmp_path):
    _, state, note = opened(opener, tmp_path, SAVED | {"language": "fr"})
    assert "is open" in note
    assert state.messages()


def test_an_alarm_is_shown_again(opener, tmp_path):
    alarm = AlarmReading("malignant", 0.4, 0.2, Alarm(0.2, 0.9, 18, 20, 5, 50))
    _, state, note = opened(
        opener, tmp_path, SAVED | {"differential": RANKED | {"alarms": [alarm.to_dict()]}}
    )
    assert "is open" in note
    assert state.differential.alarms == (alarm,)
    assert "18" in markup.differential(state, TEXTS)


def small_webp():
    """A picture of as many pixels as an export may hold, in some hundred bytes."""
    file = io.BytesIO()
    Image.new("RGB", (MAX_SIDE, MAX_SIDE)).save(file, "WEBP")
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    "change",
    [{"pictures": [PICTURE | {"picture": small_webp()}] * 200}, {"model": {"x": [[]] * 500_000}},
     {"turns": [{"question": "1." * 5_000_000, "answer": ""}]}],
    ids=["pictures", "values", "text"],
)  # fmt: skip
def test_a_small_file_never_takes_much_memory(opener, tmp_path, monkeypatch, change):
    decoded = []
    monkeypatch.setattr(reopen, "_opened", decoded.append)
    _, state, note = opened(opener, tmp_path, SAVED | change)
    assert not state.is_opened
    assert "more than" in note
    assert not decoded
