"""A closed set for systems that only write: a list in the prompt, and the label that the answer chooses."""

from __future__ import annotations

import re
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def letters_question(question: str, labels: Sequence[str]) -> str:
    """A question with lettered options that is answered with one letter."""
    options = "\n".join(f"{letter}. {plain(label)}" for letter, label in zip(LETTERS, labels, strict=False))
    return f"{question}\n{options}\nAnswer with the letter of one option and nothing else."


def plain(label: str) -> str:
    """A label as people write it."""
    return label.replace("_", " ")


def chosen(answer: str, labels: Sequence[str]) -> str | None:
    """The one label that an answer names, in any case; None where it names none, or several.

    A label inside a longer one that is named too (`melanoma` in `melanoma nevi moles`) does not count.
    """
    text = " ".join(plain(answer).casefold().split())
    named = []
    for label in sorted(labels, key=len, reverse=True):
        pattern = rf"(?<!\w){re.escape(' '.join(plain(label).casefold().split()))}(?!\w)"
        text, count = re.subn(pattern, " | ", text)
        if count:
            named.append(label)
    return named[0] if len(named) == 1 else None
