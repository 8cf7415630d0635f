"""Diseases or findings named in a text, and how: asserted, negated or merely mentioned.

Cue phrases in the manner of NegEx (Chapman et al. 2001) and ConText (Harkema et al. 2009): a cue such as "no
evidence of" applies to the names that follow it, one such as "is unlikely" to those before it, until the sentence
turns ("but", "however", ";"). The phrases are in cues.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from skingpt4.support.files import read_yaml
from skingpt4.taxonomy.lexicon import WORD, Lexicon, Term

Status = Literal["asserted", "negated", "mentioned"]
Kind = Literal["diseases", "findings"]


@dataclass(frozen=True)
class Mention:
    """A term in a text at `[start, end)`, with its status and the cue phrase that decided it, if any."""

    term: Term
    start: int
    end: int
    text: str
    status: Status
    cue: str | None = None

    @property
    def class_name(self) -> str | None:
        """The class of the term."""
        return self.term.group


def find_mentions(lexicon: Lexicon, text: str, kind: Kind = "diseases") -> tuple[Mention, ...]:
    """All terms in the text with their status, in order of appearance.

    Args:
        lexicon: the terms.
        text: any.
        kind: what the terms are; a few phrases speak of diseases alone ("unlikely", "should be considered").
    """
    places = list(lexicon.find(text))
    mentions: list[Mention] = []
    for start, end in sentences(text):
        inside = [(term, a, b) for term, a, b in places if start <= a < end]
        mentions += _judge(text, start, end, inside, _cues(kind)) if inside else []
    return tuple(mentions)


# --- sentences and lists -------------------------------------------------------------------------------

_END = re.compile(
    r"(?<!\bvs)(?<!\be\.g)(?<!\bi\.e)(?<!\bcf)(?<!\bincl)(?<!\n\d)(?<!^\d)[.!](?=\s|$)|[?;]|\n+"
)
_BULLET = re.compile(r"\s*(?:[-*•–]|\d+[.)])\s")


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Spans of sentences; a wrapped line, and a list after a colon, belong to the sentence that they continue."""
    start = 0
    for match in _END.finditer(text):
        if "\n" in match[0] and _continues(text[start : match.start()], text[match.end() :]):
            continue
        yield start, match.end()
        start = match.end()
    if start < len(text):
        yield start, len(text)


def _continues(before: str, after: str) -> bool:
    """Whether a sentence continues after a line break: in small letters, after a colon, or in bullets after one."""
    if after.lstrip(" ")[:1].islower():
        return True
    if before.rstrip(" *\n").endswith(":"):
        return True
    return _BULLET.match(after) is not None and ":\n" in re.sub(r"[ *]", "", before)


# What may be between two names of one list: a blank ("erythematous plaques"), or a separator and up to two words that
# describe the second.
_STOP = (
    "is|are|was|were|has|have|had|but|now|with|without|who|which|that|then|presents?|shows?|on|in|of|from|to|for|"
    "it|this|there|not|no|most|likely|diagnosis|due|because|at|by|than|rather|as|seen|unlikely|less|more|"
    "only|just|merely|multiple|several|numerous|few|many"
)
_DESCRIBED = rf"(?:(?!(?:{_STOP})\b)[\w’'-]+\s+){{0,2}}"
_EXAMPLE = r"such\s+as|including|e\.g\.|for\s+example|namely"
_CONJUNCTION = rf"(?<=\s)(?:and/or|and|or|nor|vs\.?|versus|as\s+well\s+as|plus)(?=\s)|\b(?:{_EXAMPLE})(?=\s)"
_SEPARATOR = rf"[,/(•*–|+&)]|{_CONJUNCTION}|\d+[.)](?=\s)|-(?=\s)"
_GLUE = re.compile(rf"\s+|(?:\s*(?:{_SEPARATOR}))+\s*{_DESCRIBED}", re.IGNORECASE)
_ALTERNATIVE = re.compile(r"\b(?:or|vs\.?|versus)\b|/", re.IGNORECASE)


# --- cues ----------------------------------------------------------------------------------------------

REACH_WORDS = {"chain": 6, "adjacent": 0}


@dataclass(frozen=True)
class Cue:
    """A phrase at `[start, end)` that gives the names it reaches their status."""

    start: int
    end: int
    text: str
    status: Status
    reach: str


class Cues:
    """The phrases of cues.yaml that speak of diseases, or of findings, compiled."""

    def __init__(self, kind: Kind) -> None:
        data = read_yaml(Path(__file__).with_name("cues.yaml"))
        self.turn = re.compile(data["turns"], re.IGNORECASE)
        self.before, self.after = (
            [*_compiled(group for group in data[side] if group.get("of", kind) == kind)]
            for side in ("before", "after")
        )

    @staticmethod
    def find(phrases: list[Phrase], text: str, start: int, end: int) -> list[Cue]:
        """Cues inside `[start, end)` that do not overlap, in order; of two the first, then the longer counts."""
        cues = [
            Cue(match.start(), match.end(), match[0], status, reach)
            for pattern, status, reach in phrases
            for match in pattern.finditer(text, start, end)
        ]
        separate: list[Cue] = []
        for cue in sorted(cues, key=lambda c: (c.start, -c.end)):
            if not separate or cue.start >= separate[-1].end:
                separate.append(cue)
        return separate


Phrase = tuple[re.Pattern[str], Status, str]


def _compiled(groups: Iterable[dict[str, Any]]) -> Iterator[Phrase]:
    for group in groups:
        for phrase in group["phrases"]:
            words = phrase.replace(" ", r"\s+").replace("'", "['’]")
            yield re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE), group["status"], group["reach"]


@cache
def _cues(kind: Kind) -> Cues:
    return Cues(kind)


# --- judgement -----------------------------------------------------------------------------------------

Place = tuple[Term, int, int]  # a term and its span


def _judge(text: str, start: int, end: int, places: list[Place], cues: Cues) -> Iterator[Mention]:
    """The mentions of one sentence: the names of one list share their cue."""
    begin = start
    for number, chain in enumerate(chains := _chains(text, places)):
        stop = chains[number + 1][0][1] if number + 1 < len(chains) else end
        before = _cue_before(text, start, begin, chain[0][1], cues)
        after = _cue_after(text, chain[-1][2], stop, cues)
        last, is_joined = _last_phrase(text, chain)
        begin = chain[-1][2]
        choice = _alternatives(text, chain)
        question = text[start:end].rstrip(" *\n").endswith("?")
        for place, (term, a, b) in enumerate(chain):
            # After "A, B unlikely" without "and" only the last is meant; "non-" denies only the word beside it.
            cue = after if place >= last or is_joined else None
            if place and before and (before.status, before.reach) == ("negated", "adjacent"):
                before = None
            if cue is None or (cue.status == "asserted" and before and before.reach != "sentence"):
                cue = before or cue
            status: Status = cue.status if cue else "asserted"
            phrase = cue.text if cue else None
            if status == "asserted" and (question or text[:a].endswith("?") or choice):
                status, phrase = "mentioned", choice or "?"
            yield Mention(term, a, b, text[a:b], status, phrase)


def _chains(text: str, places: list[Place]) -> list[list[Place]]:
    """Names separated only by the words of a list."""
    chains: list[list[Place]] = []
    for item in places:
        if chains and _GLUE.fullmatch(text, chains[-1][-1][2], item[1]):
            chains[-1].append(item)
        else:
            chains.append([item])
    return chains


def _gaps(text: str, chain: list[Place]) -> list[str]:
    return [text[a[2] : b[1]] for a, b in pairwise(chain)]


def _alternatives(text: str, chain: list[Place]) -> str | None:
    """The "or" of a list that offers names of different groups."""
    if len({term.group for term, _, _ in chain}) < 2:
        return None
    matches = (_ALTERNATIVE.search(gap) for gap in _gaps(text, chain))
    return next((match[0] for match in matches if match), None)


def _last_phrase(text: str, chain: list[Place]) -> tuple[int, bool]:
    """Where the last of a list begins, as in "A, red B", and whether a word such as "and" joins it to the others."""
    gaps = _gaps(text, chain)
    last = len(gaps)
    while last and not gaps[last - 1].strip():
        last -= 1
    joint = rf"\b(?:and|or|nor|vs|versus|{_EXAMPLE})(?!\w)|[/(]"
    return last, last == 0 or re.search(joint, gaps[last - 1], re.IGNORECASE) is not None


_VERB = re.compile(
    r"\band\s+(?:(?:is|has|had|shows?|now|presents?|with|are|was|were|it|this)\b|\w+ed\b)", re.IGNORECASE
)


def _reaches(cue: Cue, gap: str) -> bool:
    """Whether a phrase reaches a name across the text between them."""
    if cue.reach == "sentence":
        return True
    return "," not in gap and not _VERB.search(gap) and len(WORD.findall(gap)) <= REACH_WORDS[cue.reach]


def _cue_before(text: str, start: int, begin: int, place: int, cues: Cues) -> Cue | None:
    """The phrase that applies to the name at `place`; `begin` is where the names before it end."""
    asserted: Cue | None = None
    for cue in reversed(cues.find(cues.before, text, start, place)):
        gap = text[cue.end : place]
        # A colon right after a phrase ("Differential: ...") only opens its list.
        if cues.turn.search(gap.lstrip("*").removeprefix(":")):
            break
        if cue.reach != "sentence" and cue.start < begin:
            continue
        if cue.text.lower() == "over" and text[begin : cue.start].strip():
            continue  # "favours A over B", not "spread over"
        if not _reaches(cue, gap):
            continue
        if cue.status != "asserted":
            if asserted and cue.reach == "sentence":
                return asserted
            return cue
        asserted = asserted or cue
    return asserted


# A comma before a verb closes an insertion: "An infection, e.g. ringworm, is unlikely".
_CLOSING = re.compile(r"\s*,\s*(?=(?:is|are|was|were|has|have|should|must|can|cannot|could|may|might)\b)")


def _cue_after(text: str, place: int, stop: int, cues: Cues) -> Cue | None:
    """The phrase that follows the name ending at `place`, before the next name at `stop`."""
    if closing := _CLOSING.match(text, place):
        place = closing.end()
    for cue in cues.find(cues.after, text, place, stop):
        gap = re.sub(r"^[\s)*\"]*,?\s*(?:which|that)\b", "", text[place : cue.start])
        if cues.turn.search(gap) or re.search(r"\b(?:and|with|but)\b", gap, re.IGNORECASE):
            return None
        if _reaches(cue, gap):
            return cue
    return None
