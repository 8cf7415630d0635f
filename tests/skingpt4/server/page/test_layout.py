"""The layout of the page: what it must say and offer, in each language; a stub stands for the session."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

import demo

demo.stay_local()

import gradio as gr  # noqa: E402

from skingpt4.chat.texts import load  # noqa: E402
from skingpt4.generation.questions import CLINICAL_PROMPTS  # noqa: E402
from skingpt4.server.address import Address  # noqa: E402
from skingpt4.server.gradio_app import escape  # noqa: E402
from skingpt4.server.page import layout, markup  # noqa: E402
from skingpt4.server.page.handlers import Handlers  # noqa: E402
from skingpt4.server.page.state import Update  # noqa: E402
from skingpt4.taxonomy.taxonomy import CLASSES  # noqa: E402
from tests.support.page_stub import (  # noqa: E402
    MODEL,
    QUESTIONS,
    Concept,
    Likely,
    Scored,
    Stub,
    poor,
    tools,
    upload,
)


@pytest.mark.parametrize("code", ["en", "de"])
def test_page_says_what_it_must_in_each_language(code):
    texts = load(code)
    config = layout.build(tools(), code).get_config_file()
    inside = set(map(str, config["page"][""]["components"]))
    first = [c for c in config["components"] if str(c["id"]) in inside]
    text = str(first)
    for words in (
        texts["not_a_diagnosis"], texts["stay_here"], MODEL["checkpoint"], texts["banner.demonstration"],
        texts["welcome.accept"], *texts.lines("chat.prompts"), *QUESTIONS, texts["guidance.heading"],
    ):  # fmt: skip
        assert escape(words) in text or words in text, words
    named = ("textbox", "slider", "number", "image", "chatbot", "accordion", "radio", "checkbox", "dropdown")
    unnamed = [c["type"] for c in first if c["type"] in named and not c["props"].get("label")]
    assert unnamed == [], "every control has a label"
    assert set(config["page"]) == {"", *({"en", "de"} - {code})}, "the other languages are one link away"
    assert all(d["api_visibility"] == "private" for d in config["dependencies"] if d["backend_fn"])


def test_the_camera_does_not_mirror():
    picture = next(b for b in layout.build(tools()).blocks.values() if b.elem_id == "picture")
    assert picture.webcam_options.mirror is False, "left stays left"
    assert picture.get_config()["webcam_options"]["constraints"]["video"]["facingMode"] == {
        "ideal": "environment"
    }


def test_page_says_where_pictures_go():
    texts = load("en")
    other = str(layout.build(tools(), address=Address("0.0.0.0")).get_config_file()["components"])
    assert texts["stay_there"] in other
    assert texts["stay_here"] not in other
    shared = str(layout.build(tools(), address=Address(share=True)).get_config_file()["components"])
    assert "Pictures leave this machine" in shared
    assert "Nothing is sent" not in shared
    assert "Pictures stay on" not in shared


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ("step 2 (diagnoses), iteration 7", "rendered phantoms", "Demonstration model")),
        ({"demonstration": False}, ("runs/phantoms/step2/manifest.jsonl", "step 2")),
        (
            {"checkpoint": "no checkpoint", "step": None, "trained_on": [], "demonstration": False},
            ("Untrained",),
        ),
        ({"step": None, "trained_on": [], "demonstration": False}, ("unknown", "MiniGPT-4")),
    ],
)
def test_banner(changes, words):
    banner = markup.banner(MODEL | changes, load("en"))
    for word in words:
        assert word in banner


def click(blocks, elem_id: str):
    """What a click on the first control of that name runs."""
    number = next(block._id for block in blocks.blocks.values() if block.elem_id == elem_id)
    return next(event for event in blocks.fns.values() if (number, "click") in event.targets)


def test_buttons_ask_the_published_questions(tmp_path):
    stub = Stub()
    kit = tools(lambda: stub)
    page = Handlers(kit, load("en"))
    state = page.begin()
    page.add_image(state, upload(tmp_path), "close")
    blocks = layout.build(kit)
    names = [f"study{number}" for number in range(4)] + ["trained0"]
    for name in names:
        event = click(blocks, name)
        values = {part: part.value for part in event.inputs} | {event.inputs[0]: state}
        *_, changes = event.fn(values)
    assert [question for question, _ in stub.asked] == [*CLINICAL_PROMPTS, *QUESTIONS]
    (chat,) = [value for part, value in changes.items() if part.elem_id == "chat"]
    assert chat[-1]["content"] == "it is &lt;b&gt;red&lt;/b&gt;", "the chat shows text, never markup"


def test_case_begins_only_when_accepted():
    blocks = layout.build(tools())
    begin = click(blocks, "begin")
    nobody, anna = (gr.Request(username=name) for name in (None, "anna"))
    assert set(begin.fn(True, nobody)) == set(begin.outputs)
    assert begin.fn(False, nobody) == gr.skip()
    states = [begin.fn(True, request)[begin.outputs[0]] for request in (nobody, anna)]
    assert [state.user for state in states] == [None, "anna"]


def test_the_page_says_who_is_logged_in_where_somebody_is():
    assert "logout" not in json.dumps(layout.build(tools()).get_config_file(), default=str)
    shown = markup.user("<anna>", load("en"))
    assert "Logged in as &lt;anna&gt;" in shown
    assert 'action="./logout"' in shown


def test_pictures_are_listed_with_their_faults_and_how_to_retake_them(tmp_path):
    texts = load("en")
    page = Handlers(tools(assess=poor), texts)
    state = page.begin()
    page.add_image(state, upload(tmp_path), "far")
    shown = markup.gallery(state, texts)
    for words in (
        "Picture 1, far view",
        "30 x 40 pixels",
        "Quality 20 of 100",
        texts["quality.blurred.retake"],
    ):
        assert words in shown
    assert "problem with the picture: new_kind" in shown, "a fault without words of its own is named"
    assert 'alt="Picture 1, far view"' in shown
    assert "use" not in markup.gallery(None, texts)
    assert "<details" not in shown
    german = load("de")
    covered = markup.gallery(state, german, cover=True)
    assert f"{german['pictures.uncover']}</span>" in covered
    assert covered.index("<details") < covered.index("<img") < covered.index("</details>")


def scored(**changes) -> SimpleNamespace:
    ranked = tuple(Likely(name, 0.5 / 2**n) for n, name in enumerate(CLASSES))
    return SimpleNamespace(differential=Scored(ranked, **changes), heatmaps=["data:,"])


def test_differential_ranks_and_says_how_sure():
    texts = load("en")
    shown = markup.differential(scored(), texts)
    assert shown.count('class="track"') == len(CLASSES)
    assert "Not confident" in shown
    assert "below the threshold of 60 %" in shown
    assert "50 %" in shown
    assert "&lt; 1 %" in shown
    assert "not calibrated" in shown
    assert "Plaque" in shown
    assert "Scale" not in shown, "an unlikely concept"
    assert "Grows &lt;fast&gt;" in shown
    assert shown.count(escape(texts["differential.heatmap_note"])) == 2, (
        "as a sentence and for those who do not see it"
    )
    sure = markup.differential(scored(confident=True, calibration="300 phantoms"), texts)
    assert "Not confident" not in sure
    assert "calibrated on 300 phantoms" in sure
    assert "no threshold is known" in markup.differential(scored(threshold=1.0), texts)


def test_the_likeliest_diseases_are_shown_where_the_checkpoint_knows_its_own():
    texts = load("en")
    heading = escape(texts["differential.diseases"])
    assert heading not in markup.differential(scored(), texts)
    diseases = tuple(Concept(f"<i>tinea</i> {n}", 0.4 / 10**n) for n in range(10))
    shown = markup.differential(scored(diseases=diseases), texts)
    assert heading in shown
    assert "&lt;i&gt;tinea&lt;/i&gt; 0 <span>40 %</span>" in shown
    assert "tinea&lt;/i&gt; 4 <span>&lt; 1 %</span>" in shown
    assert "tinea&lt;/i&gt; 5" not in shown


def test_an_update_changes_only_what_it_names_and_nothing_that_is_no_output():
    kit, texts = tools(), load("en")
    with gr.Blocks() as blocks:
        page = layout.Layout(blocks, kit, texts, Address(), {"en": "./"})
    fresh, everything = page.handlers.delete(page.handlers.begin())
    assert set(page.changes(fresh, everything)) == set(page.updated)
    assert page.changes(None, Update()) == {}
    assert page.changes(None, Update("words")) == {page.note: "words"}
    assert set(click(blocks, "delete-yes").fn(fresh)) == set(click(blocks, "delete-yes").outputs)
