"""The strings that a prompt is structured by, and people's text changed so that it holds none of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any


def break_marks(text: str, marks: Sequence[str], before: str = "", after: str = "") -> str:
    """The text with a space put before the last character of every mark: `<|im_end|>` becomes `<|im_end| >`.

    A text without marks is returned as it is. Marks that the text forms only together with its surroundings are
    broken too, by a space inside or at the edge of the text: "grade #" before "###" becomes "grade # ".

    Args:
        text: what a person or a model wrote.
        marks: strings of at least two characters without spaces.
        before: the structure that the text follows.
        after: the structure that follows the text.
    """
    if not text or not marks:
        return text
    reach = max(map(len, marks)) - 1
    head = before[-reach:]
    start, end = len(head), len(head) + len(text)
    context = head + text + after[:reach]
    spans = [match.span(1) for match in _pattern(tuple(marks)).finditer(context)]
    cuts = {min(last - 1, end) for first, last in spans if first < end and last > start}
    bounds = [start, *sorted(cuts), end]
    return " ".join(context[a:b] for a, b in pairwise(bounds))


def marks_in(text: str, marks: Sequence[str]) -> list[str]:
    """The marks that stand in a text, each once, in their order."""
    if not marks:
        return []
    return list(dict.fromkeys(match[1] for match in _pattern(tuple(marks)).finditer(text)))


@lru_cache(maxsize=32)
def _pattern(marks: tuple[str, ...]) -> re.Pattern[str]:
    # Lookaheads, because marks overlap ("####"); the shortest first, because breaking it breaks longer ones as well.
    # The first characters alone rule out nearly every place at once: tokenizers have hundreds of special tokens.
    first = "".join(sorted({re.escape(mark[0]) for mark in marks}))
    return re.compile(f"(?=[{first}])(?=({'|'.join(map(re.escape, sorted(marks, key=len)))}))")


def special_tokens(tokenizer: Any) -> list[str]:
    """The text of every special token, also of those without a role of their own, such as Llama 3's `<|eot_id|>`."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return list(dict.fromkeys([*tokenizer.all_special_tokens, *added]))


def tokenizer_marks(tokenizer: Any) -> list[str]:
    """The special tokens, and those of the other added tokens that stand in brackets, such as `<think>`.

    Added words and runs of spaces are text, and so is an ordinary character that a tokenizer pads with.
    """
    added = map(str, tokenizer.added_tokens_decoder.values())
    bracketed = [text for text in added if text[:1] in ("<", "[") and text[-1:] in (">", "]")]
    tokens = dict.fromkeys([*special_tokens(tokenizer), *bracketed])
    return [token for token in tokens if len(token.strip(" \n\t\r▁")) > 1]


def up_to_special_token(text: str, specials: tuple[str, ...], place: int = 0) -> str:
    """The text from a place up to and including the first special token after it; empty if there is none."""
    match = _first_of(specials).search(text, place)
    return text[place : match.end()] if match else ""


@lru_cache(maxsize=32)
def _first_of(specials: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(specials))) or "(?!)")
