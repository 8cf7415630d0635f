"""The languages of the page say the same things, with the same words to fill in."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from skingpt4.chat import texts as page_texts
from skingpt4.chat.checks import quality
from skingpt4.chat.texts import TextError, load
from skingpt4.records.images import REASONS
from skingpt4.support.cli import DISCLAIMER
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS, class_title

ROOT = Path(__file__).parents[3]
OTHERS = [code for code in page_texts.languages() if code != page_texts.FIRST]


def flat(table, before=""):
    if isinstance(table, dict):
        return {k: v for name, inner in table.items() for k, v in flat(inner, f"{before}{name}.").items()}
    if isinstance(table, list):
        return {f"{before}{n}": line for n, line in enumerate(table)}
    return {before[:-1]: table}


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_languages():
    assert page_texts.languages() == {"en": "English", "de": "Deutsch"}
    with pytest.raises(TextError, match="there are de, en"):
        load("../en")


@pytest.mark.parametrize("code", OTHERS)
def test_every_language_is_complete(code):
    english, other = flat(load("en").table), flat(load(code).table)
    assert list(other) == list(english), "the same keys in the same order"
    for key, text in english.items():
        assert isinstance(other[key], str), key
        assert other[key].strip(), key
        assert fields(other[key]) == fields(text), key
    untranslated = {key for key, text in english.items() if other[key] == text and len(text) > 24}
    assert untranslated <= {"banner.step_other"}, "English is left over"


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
