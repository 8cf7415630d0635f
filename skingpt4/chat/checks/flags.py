"""Words of an answer that should not pass without a caution: what reassures, and doses of medicines.

The model was trained to describe and to name. It cannot rule out a serious condition and knows no doses, whatever it
writes. What is found is shown beside the answer; the answer itself is never changed. The patterns are in flags.yaml.
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
}
# Right before a match, these turn its meaning round: "not healthy", "don't use it twice a day" stays a dose.
_NEGATION = re.compile(
    r"(?:\bnot|n't|\bnever|\bno longer|\bhardly|\bnicht|\bkein\w*|\bkaum)\W+(?:\w+\W+)?$", re.I
)

MAX_BEFORE = 200  # characters before a match in which such words are looked for


@dataclass(frozen=True)
class Flag:
    """A place in an answer: what kind it is (reassurance, dose) and its words."""

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
    return tuple(dict.fromkeys(flag for _, flag in sorted(matches, key=lambda match: match[0])))


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
