"""The languages of the page say the same things, with the same words to fill in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import demo
from skingpt4.chat import texts as page_texts
from skingpt4.chat.checks import quality
from skingpt4.chat.differential import ClassProbability, advise
from skingpt4.chat.exporting.record import Consultation
from skingpt4.chat.texts import TextError, load
from skingpt4.cli import consultation_export
from skingpt4.records.images import REASONS
from skingpt4.support.cli import DISCLAIMER
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS, class_title

ROOT = Path(__file__).parents[3]
OTHERS = [code for code in page_texts.languages() if code != page_texts.FIRST]


def test_languages():
    assert page_texts.languages() == {"en": "English", "de": "Deutsch"}
    with pytest.raises(TextError, match="there are de, en"):
        load("../en")


@pytest.mark.parametrize("code", OTHERS)
def test_every_language_is_complete(code):
    english, other = (dict(page_texts.flat(load(each).table)) for each in ("en", code))
    assert page_texts.differences(load(code).table, load("en").table) == []
    assert list(other) == list(english), "the same keys in the same order"
    untranslated = {key for key, text in english.items() if other[key] == text and len(text) > 24}
    assert untranslated <= {"banner.step_other"}, "English is left over"


# --- one more language


@pytest.fixture
def french(tmp_path, monkeypatch):
    """A file of a third language: English in capitals, without what stands in braces."""
    monkeypatch.setattr(page_texts, "_added", {})

    def loud(value):
        if isinstance(value, dict):
            return {key: loud(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [loud(inner) for inner in value]
        return "".join(
            part if part.startswith("{") else part.upper() for part in re.split(r"(\{[^}]*\})", value)
        )

    table = loud(load("en").table)
    path = tmp_path / "fr.yaml"

    def write(change=lambda table: None):
        change(table)
        path.write_text(yaml.safe_dump(table, allow_unicode=True), encoding="utf-8")
        return path

    return write


def test_a_third_language_is_a_file(french):
    with pytest.raises(TextError, match="'fr'"):
        load("fr")
    page_texts.add_language(french())
    assert list(page_texts.languages()) == ["en", "de", "fr"]
    assert load("fr")["chat.ask"] == "ASK"
    assert load("fr")("pictures.alt", number=1, view="x") == "PICTURE 1, x VIEW"
    flags, steps = advise(
        [ClassProbability("malignant_lesions", "x", 1.0)], [], True, "fr", alarms=["malignant_lesions"]
    )
    assert flags[0].startswith("SKIN CANCER IS AMONG")
    assert steps[-1].isupper()
    with pytest.raises(TextError, match="there are de, en, fr"):
        load("it")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda table: table["chat"].pop("ask"), "there is no text for chat.ask; en.yaml"),
        (lambda table: [table["chat"].pop("ask"), table.pop("errors")], r"no text for \S+, and \d+ more"),
        (lambda table: table["advice"]["classes"]["herpes"].pop("next"), "advice.classes.herpes.next"),
        (lambda table: table["welcome"]["is"].pop(), "there is no text for welcome.is.1"),
        (lambda table: table.update(extra="x"), "nothing shows the text extra"),
        (lambda table: table["chat"].update(ask=""), "chat.ask is empty"),
        (lambda table: table["chat"].update(ask=True), "chat.ask is empty, or not a text"),
        (
            lambda table: table["pictures"].update(alt="IMAGE {number}"),
            "pictures.alt needs in braces: number, view",
        ),
        (lambda table: table["chat"].update(ask="{0.__class__}"), "chat.ask needs in braces: nothing"),
        (lambda table: table["pictures"].update(alt="{number!r} {view}"), "pictures.alt needs in braces"),
        (lambda table: table["chat"].update(ask="{"), "chat.ask needs in braces"),
    ],
)
def test_a_language_that_is_not_complete_is_refused_with_its_key(french, change, why):
    path = french(change)
    with pytest.raises(TextError, match=why):
        page_texts.add_language(path)
    assert "fr" not in page_texts.languages()


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("french.txt", "", "named after its code"),
        ("de.yaml", "", "is there already"),
        ("fr.yaml", "a: [", "is not YAML"),
        ("fr.yaml", "", "there is no text for language"),
        ("fr.yaml", "- a", "there is no text for language"),
        ("xy.yaml", None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_language_is_one_sentence(tmp_path, name, content, why):
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(TextError, match=why):
        page_texts.add_language(path)


def test_the_page_refuses_a_language_that_is_not_complete_before_it_loads_a_model(french, capsys):
    path = french(lambda table: table["chat"].pop("ask"))
    assert demo.main(["--config", "nowhere.yaml", "--language-file", str(path)]) == 1
    assert "there is no text for chat.ask" in capsys.readouterr().err


def test_a_saved_consultation_is_exported_in_its_own_language(french, tmp_path):
    saved, letter = tmp_path / "c.json", tmp_path / "c.txt"
    saved.write_text(Consultation({}, language="fr").to_json())
    wanted = [str(saved), "--letter", str(letter)]
    assert consultation_export.main(wanted) == 0
    assert load("en")["letter.title"] in letter.read_text(), "English without the file"
    assert consultation_export.main([*wanted, "--language-file", str(french())]) == 0
    assert load("en")["letter.title"].upper() in letter.read_text()


def test_every_problem_of_a_picture_has_its_words():
    texts = load("en")
    for kind in quality.KINDS:
        assert texts.has(f"quality.{kind}.problem"), kind
        assert texts.has(f"quality.{kind}.retake"), kind
    for reason in REASONS:
        assert texts.has(f"errors.picture_{reason}"), reason


def test_classes_and_concepts_have_their_names():
    classes, concepts = (load("en").table[group] for group in ("classes", "concepts"))
    assert classes == {name: class_title(name) for name in CLASSES}
    assert tuple(concepts) == CONCEPTS


def test_texts_that_the_page_asks_for_exist():
    """Keys written out in the code; those put together from parts are reached by the tests of the parts."""
    texts, used = load("en"), set()
    for path in [*(ROOT / "skingpt4/server").rglob("*.py"), *(ROOT / "skingpt4/chat").rglob("*.py")]:
        pattern = r"(?:texts|said)(?:\.lines)?[\[(]\s*[\"']([a-z_]+\.[a-z0-9_.]+[a-z0-9_])[\"']"
        used |= set(re.findall(pattern, path.read_text(encoding="utf-8")))
    assert len(used) > 100
    assert [key for key in sorted(used) if not texts.has(key)] == []


def test_the_disclaimer_of_the_exports_is_that_of_everything_else():
    assert load("en")["record.disclaimer"] == DISCLAIMER


def test_wrong_keys_are_named():
    for wrong in ("chat", "chat.nowhere", "chat.ask.more"):
        with pytest.raises(TextError, match=re.escape(wrong)):
            load("en")[wrong]
    with pytest.raises(TextError, match="not a list"):
        load("en").lines("chat.ask")
