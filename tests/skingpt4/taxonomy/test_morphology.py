"""Concepts in plain words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skingpt4.taxonomy.free_text import find_concepts
from skingpt4.taxonomy.morphology import morphology, say_concepts
from skingpt4.taxonomy.taxonomy import CONCEPTS

SENTENCES = (
    "I see {morphology}.",
    "This is a skin disease image with the following medical features (clinical concepts): {morphology}.",
)


@given(st.sets(st.sampled_from(CONCEPTS)), st.sampled_from(SENTENCES))
def test_what_is_said_is_read_as_the_same_concepts(concepts, sentence):
    assert set(find_concepts(say_concepts(sentence, sorted(concepts)))) == concepts


@pytest.mark.parametrize(
    ("concepts", "words"),
    [
        (["Plaque", "Erythema", "Scale", "Scar"], "red, scaly plaques with scars"),
        (["Erythema", "Scale"], "red, scaly skin"),
        (["Comedo", "Papule"], "papules with comedones"),
        (["Telangiectasia"], "telangiectasia"),
        (["Erythema", "ulcerated margin"], "red skin with ulcerated margin"),
        ([], ""),
    ],
)
def test_words(concepts, words):
    assert morphology(concepts) == words


def test_a_sentence_may_hold_the_names_or_the_words():
    concepts = ("Scale", "Plaque")
    assert say_concepts("It shows {concepts}.", concepts) == "It shows Scale, Plaque."
    assert say_concepts("It shows {morphology}.", concepts) == "It shows scaly plaques."
