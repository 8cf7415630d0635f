"""Answers of chosen lengths."""

import pytest

from benchmarks.harness.shapes import stand_in_tokenizer
from benchmarks.harness.workload import LONGEST, answer_of
from skingpt4.model.prompts import answer_end, get_template


@pytest.mark.parametrize("length", [20, LONGEST, 2 * LONGEST, 5 * LONGEST])
def test_an_answer_has_the_length_that_was_asked_for(length):
    tokenizer, template = stand_in_tokenizer(), get_template("vicuna")
    text = answer_of(tokenizer, template, length) + answer_end(template, tokenizer)
    assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == length
