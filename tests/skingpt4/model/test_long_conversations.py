"""The work of rendering a conversation grows with its length, not with its square."""

import time

import pytest

from skingpt4.model.prompts import TEMPLATES, TOKENIZER_TEMPLATE, Turn, get_template, render
from tests.support.tiny import make_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    result = make_tokenizer("qwen2")
    marks = ["<|im_start|>", "<|im_end|>", *(f"<|{number}|>" for number in range(200))]
    result.add_special_tokens({"additional_special_tokens": marks})
    result.chat_template = CHATML
    return result


def seconds(template, turns, tokenizer):
    started = time.process_time()
    pieces = render(template, turns, tokenizer)
    assert sum(learned for _, learned in pieces) == sum(turn.answer is not None for turn in turns)
    return time.process_time() - started


@pytest.mark.parametrize("name", [*TEMPLATES, TOKENIZER_TEMPLATE])
def test_thousands_of_turns(name, tokenizer):
    turns = [Turn("What is wrong with my skin?", "It may be acne. " * 3)] * 2000
    assert seconds(get_template(name), [*turns, Turn("Why?")], tokenizer) < 15  # once 80 seconds


@pytest.mark.parametrize("text", ["<" * 200_000 + "answer 0>", "<answer " * 25_000, "#" * 200_000])
def test_texts_made_of_marks(text, tokenizer):
    assert seconds(None, [Turn(text, "Yes."), Turn("Why?")], tokenizer) < 15
    pieces = render(None, [Turn(text, "Yes."), Turn("Why?")], tokenizer)
    assert [text for text, learned in pieces if learned] == ["Yes.<|im_end|>"]
