"""What is scored for each class, and the class that an answer commits to."""

import re
from pathlib import Path

import pytest

from data.phantoms.splits import DISEASES
from eval.asking.classes import read_class
from skingpt4.generation.questions import scored_diseases
from skingpt4.records.record import Record
from skingpt4.taxonomy import taxonomy
from skingpt4.taxonomy.free_text import ANSWER_FORM
from skingpt4.taxonomy.taxonomy import CLASSES


def case(class_name, disease):
    return Record(Path("x.jpg"), class_name=class_name, disease=disease)


def test_phantoms_are_scored_with_their_own_words():
    records = [case(name, disease) for name, disease in DISEASES.items()] * 2
    assert scored_diseases(records) == DISEASES
    assert list(scored_diseases(reversed(records))) == list(CLASSES)


def test_a_class_without_one_name_of_its_own_takes_the_taxonomys():
    records = [
        case("dermatitis", "atopic dermatitis"),
        case("dermatitis", "contact dermatitis"),
        case("herpes", None),
        case("light_diseases", "vitiligo"),
    ]
    scored = scored_diseases(records)
    assert scored["dermatitis"] == taxonomy.class_disease("dermatitis") == "eczema"
    assert scored["herpes"] == "herpes"
    assert scored["light_diseases"] == "vitiligo"
    assert scored["bullous_disease"] == "bullous pemphigoid"
    assert list(scored) == list(CLASSES)


def old_rule(answer):
    """How free text was read before the taxonomy: exactly one of the phantoms' words stands in it."""
    said = [c for c, disease in DISEASES.items() if re.search(rf"\b{disease}\b", answer)]
    return said[0] if len(said) == 1 else None


PHANTOM_ANSWERS = [
    *(ANSWER_FORM.format(disease=disease) for disease in DISEASES.values()),
    *(f"{ANSWER_FORM.format(disease=d)} Silvery plaques on the forearm." for d in DISEASES.values()),
    "This is a skin disease image with the following medical features (clinical concepts): Plaque, Scale.",
    "This could be a skin disease image of",
    "",
]


@pytest.mark.parametrize("answer", PHANTOM_ANSWERS)
def test_the_phantoms_answers_are_read_as_before(answer):
    assert read_class(answer, ANSWER_FORM, DISEASES)["text_class"] == old_rule(answer)


def test_an_answer_tells_what_decided():
    assert read_class("No sign of melanoma.", ANSWER_FORM, DISEASES) == {
        "text_class": None,
        "text_outcome": "negated",
        "text_mention": {"text": "melanoma", "span": [11, 19], "status": "negated", "cue": "No sign of"},
    }
    assert read_class("It is red.", ANSWER_FORM, DISEASES) == {
        "text_class": None,
        "text_outcome": "unknown",
        "text_mention": None,
    }


def test_a_scored_disease_that_the_taxonomy_does_not_know_counts_where_it_is_stated():
    scored = {**DISEASES, "dermatitis": "glorpitis"}
    assert read_class("This could be a skin disease image of Glorpitis.", ANSWER_FORM, scored)[
        "text_class"
    ] == ("dermatitis")
    assert read_class("Not glorpitis.", ANSWER_FORM, scored)["text_outcome"] == "unknown"
