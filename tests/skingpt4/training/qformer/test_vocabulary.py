"""Captions of records: everything that is known, each thing once."""

from pathlib import Path

import pytest

from skingpt4.records.record import Record
from skingpt4.training.qformer.vocabulary import caption


@pytest.mark.parametrize(
    ("known", "text"),
    [
        ({}, ""),
        ({"class_name": "acne_and_rosacea"}, "acne and rosacea"),
        ({"class_name": "melanoma", "disease": "Melanoma"}, "Melanoma"),
        (
            {
                "concepts": ("Papule", "Scale"),
                "class_name": "dermatitis",
                "disease": "Eczema",
                "note": "On an arm.",
            },
            "Papule, Scale. dermatitis. Eczema. On an arm",
        ),
    ],
)
def test_a_caption_says_all_that_is_known(known, text):
    assert caption(Record(Path("0.png"), **known)) == text
