"""Words of an answer that should not pass without a caution: what reassures, doses, and a phrase said over and over.

The model was trained to describe and to name. It cannot rule out a serious condition and knows no doses, whatever it
writes. A language model that says a phrase again and again has lost what it was talking about. What is found is shown
beside the answer; the answer itself is never changed. The patterns are in flags.yaml.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

PATTERNS = Path(__file__).with_name("flags.yaml")
CAUTIONS = {
    "reassurance": "The model cannot tell that skin is healthy or a condition harmless; a doctor has to look.",
    "dose": "The model knows no doses; do not follow it, and ask a doctor or pharmacist.",
    "repetition": "The model repeats itself; what it says here means nothing.",
}
# Right before a match, these turn its meaning round: "not healthy", "don't use it twice a day" stays a dose.
_NEGATION = re.compile(
    r"(?:\bnot|n't|\bnever|\bno longer|\bhardly|\bnicht|\bkein\w*|\bkaum)\W+(?:\w+\W+)?$", re.I
)

MAX_PHRASE = 12  # words that are said over and over
MIN_TIMES = 4  # in a row; three times is emphasis
MAX_BEFORE = 200  # characters before a match in which such words are looked for


@dataclass(frozen=True)
class Flag:
    """A place in an answer: what kind it is (of `CAUTIONS`) and its words."""

    kind: str
    words: str

    @property
    def caution(self) -> str:
        """A sentence for people, in English."""
        return CAUTIONS[self.kind]


def flags(answer: str) -> tuple[Flag, ...]:
    """What of an answer needs a caution, each wording once, in the order of the text.

    Args:
        answer: a complete answer, in any language that flags.yaml has patterns for.
    """
    matches = [
        (match.start(), Flag(kind, match.group().strip()))
        for kind, pattern in _patterns().items()
        for match in pattern.finditer(answer)
        if kind != "reassurance" or not _is_negated(answer, match.start())
    ]
    matches += _repetitions(answer)
    return tuple(dict.fromkeys(flag for _, flag in sorted(matches, key=lambda match: match[0])))


def _repetitions(answer: str) -> list[tuple[int, Flag]]:
    """The first phrase that follows itself MIN_TIMES, with its place; the shortest of those that begin there."""
    spans = [match.span() for match in re.finditer(r"\w+", answer)]
    words = [answer[start:end].casefold() for start, end in spans]
    found: list[tuple[int, int, Flag]] = []
    for size in range(1, MAX_PHRASE + 1):
        run = 0  # neighbouring words that are equal to those one phrase later
        for place in range(len(words) - size):
            run = run + 1 if words[place] == words[place + size] else 0
            if run == size * (MIN_TIMES - 1):
                first = place + 1 - run
                phrase = answer[spans[first][0] : spans[first + size - 1][1]]
                found.append((spans[first][0], size, Flag("repetition", phrase)))
                break
    return [(start, flag) for start, _, flag in sorted(found, key=lambda each: each[:2])[:1]]


def _is_negated(answer: str, start: int) -> bool:
    """Whether the words right before a match turn its meaning round; only some are read, since there may be many."""
    return _NEGATION.search(answer, max(0, start - MAX_BEFORE), start) is not None


def to_rows(answer: str) -> list[dict[str, str]]:
    """The flags of an answer as JSON-able values: kind, words, caution."""
    return [{"kind": flag.kind, "words": flag.words, "caution": flag.caution} for flag in flags(answer)]


@functools.cache
def _patterns() -> dict[str, re.Pattern[str]]:
    kinds = yaml.safe_load(PATTERNS.read_text(encoding="utf-8"))
    return {kind: re.compile("|".join(map(_whole_words, patterns)), re.I) for kind, patterns in kinds.items()}


def _whole_words(pattern: str) -> str:
    return rf"(?<!\w)(?:{pattern.replace(' ', chr(92) + 's+')})(?!\w)"
