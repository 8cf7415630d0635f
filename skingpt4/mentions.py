"""Diseases named in a text, and how: asserted, negated or merely mentioned.

A list of names, spelling rules and cue phrases, in the manner of NegEx (Chapman et al. 2001) and ConText
(Harkema et al. 2009): a cue such as "no evidence of" speaks of the names that follow it, one such as
"is unlikely" of those before it, until the sentence turns ("but", "however", ";").
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import yaml

ASSETS = Path(__file__).parent / "assets"
Status = Literal["asserted", "negated", "mentioned"]


def read_asset(name: str) -> Any:
    """A YAML file of skingpt4/assets, by the parser in C where there is one (it is ten times as fast)."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load((ASSETS / name).read_text(encoding="utf-8"), loader)


@dataclass(frozen=True)
class Term:
    """A name of a disease: its usual name and group; `whole` if it counts only where it is the whole text."""

    name: str
    usual: str
    group: str | None
    whole: bool = False


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


# --- words ---------------------------------------------------------------------------------------------

# Letters and digits with combining accents, and a possessive's ending.
WORD = re.compile(r"(?:[^\W_][\u0300-\u036f]*)+(?:['’]s\b)?")
# Endings of plurals, first match wins; British spelling is brought to American before.
PLURALS = (
    (re.compile(r"mata$"), "ma"),
    (re.compile(r"(?<=[a-z]{3})itides$"), "itis"),
    (re.compile(r"(?<=[a-z]{2})oses$"), "osis"),
    (re.compile(r"tases$"), "tasis"),
    (re.compile(r"^nevi$"), "nevus"),
    (re.compile(r"ies$"), "y"),
    (re.compile(r"sses$"), "ss"),
    (re.compile(r"(?<=[a-z]{2}[^siu])s$"), ""),
)


def normal_form(word: str) -> str:
    """A word without case, accents, possessive, plural and British spelling."""
    word = re.sub(r"(?<=[A-Z]{2})s$", "", word)  # AKs
    plain = unicodedata.normalize("NFKD", word.replace("’", "'")).casefold().removesuffix("'s")
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    plain = re.sub(r"ae$", "a", plain)  # verrucae
    plain = plain.replace("ae", "e").replace("oe", "e").replace("leuco", "leuko")
    plain = re.sub(r"our(s?)$", r"or\1", plain)
    for ending, singular in PLURALS:
        shorter = ending.sub(singular, plain)
        if shorter != plain:
            return shorter
    return plain


def _is_abbreviation(name: str) -> bool:
    return WORD.fullmatch(name) is not None and sum(c.isupper() for c in name) >= 2


class Lexicon:
    """Terms that can be looked up and found in texts.

    Args:
        terms: the names; of two with the same form the first counts.
        words: abbreviations that are also words.
    """

    def __init__(self, terms: Iterable[Term], words: Iterable[str] = ()) -> None:
        """Index the terms by their words' normal forms."""
        self.terms: dict[tuple[str, ...], Term] = {}
        self._lengths: dict[str, set[int]] = {}
        self._words = frozenset(words)
        for term in terms:
            forms = tuple(normal_form(word) for word in WORD.findall(term.name))
            self.terms.setdefault(forms, term)
            self._lengths.setdefault(forms[0], set()).add(len(forms))

    def whole(self, text: str) -> Term | None:
        """The term that the whole text is, up to spelling, case and punctuation."""
        return self.terms.get(tuple(normal_form(word) for word in WORD.findall(text)))

    def find(self, text: str) -> Iterator[tuple[Term, int, int]]:
        """Terms in the text from left to right with their spans, the longest at each place."""
        words = list(WORD.finditer(text))
        forms = [normal_form(word[0]) for word in words]
        shouted = not any(c.islower() for c in text) and len(words) > 2
        place = 0
        while place < len(words):
            for length in sorted(self._lengths.get(forms[place], ()), reverse=True):
                last = place + length - 1
                if last >= len(words):
                    continue
                term = self.terms.get(tuple(forms[place : last + 1]))
                if term is None or term.whole or not self._joined(text, words[place : last + 1], term):
                    continue
                if length == 1 and not self._capitals_fit(words[place][0], term, shouted):
                    continue
                yield term, words[place].start(), words[last].end()
                place = last
                break
            place += 1

    def _joined(self, text: str, words: Sequence[re.Match[str]], term: Term) -> bool:
        """Nothing but a space, hyphen or slash stands between the words (or a comma that the term has too)."""
        gaps = [text[a.end() : b.start()] for a, b in pairwise(words)]
        allowed = r"\s*[,_–/\-]?\s*" if "," in term.name else r"\s*[_–/\-]?\s*"
        return all(re.fullmatch(allowed, gap) for gap in gaps)

    def _capitals_fit(self, word: str, term: Term, shouted: bool) -> bool:
        """An abbreviation is written in its own capitals; the unmistakable ones also in small letters."""
        if not _is_abbreviation(term.name):
            return True
        if word in (term.name, term.name + "s"):
            return not (shouted and term.name in self._words)
        return word == term.name.lower() and len(word) > 2 and term.name not in self._words

    def mentions(self, text: str) -> tuple[Mention, ...]:
        """All terms in the text with their status, in order of appearance."""
        found = list(self.find(text))
        mentions: list[Mention] = []
        for start, end in sentences(text):
            inside = [(term, a, b) for term, a, b in found if start <= a < end]
            mentions += _judge(text, start, end, inside) if inside else []
        return tuple(mentions)


# --- sentences and lists -------------------------------------------------------------------------------

_END = re.compile(
    r"(?<!\bvs)(?<!\be\.g)(?<!\bi\.e)(?<!\bcf)(?<!\bincl)(?<!\n\d)(?<!^\d)[.!](?=\s|$)|[?;]|\n+"
)
_BULLET = re.compile(r"\s*(?:[-*•–]|\d+[.)])\s")


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Spans of sentences; a wrapped line, and a list after a colon, belong to the sentence they go on."""
    start = 0
    for match in _END.finditer(text):
        if "\n" in match[0] and _goes_on(text[start : match.start()], text[match.end() :]):
            continue
        yield start, match.end()
        start = match.end()
    if start < len(text):
        yield start, len(text)


def _goes_on(before: str, after: str) -> bool:
    """Whether a sentence goes on after a line break: in small letters, after a colon, or in bullets after one."""
    if after.lstrip(" ")[:1].islower():
        return True
    if before.rstrip(" *\n").endswith(":"):
        return True
    return _BULLET.match(after) is not None and ":\n" in re.sub(r"[ *]", "", before)


# What may stand between two names of one list: a separator and up to two words that describe the second.
_STOP = (
    "is|are|was|were|has|have|had|but|now|with|without|who|which|that|then|presents?|shows?|on|in|of|from|to|for|"
    "it|this|there|not|no|most|likely|diagnosis|due|because|at|by|than|rather|as|seen|unlikely|less|more"
)
_DESCRIBED = rf"(?:(?!(?:{_STOP})\b)[\w’'-]+\s+){{0,2}}"
_CONJUNCTION = r"\s+(?:and/or|and|or|nor|vs\.?|versus|as\s+well\s+as|plus)\s+"
_SEPARATOR = rf"(?:\s*[,/(•*–|+&)]\s*|\s*\n\s*|{_CONJUNCTION}|\s*\d+[.)]\s+|\s*-\s+)"
_GLUE = re.compile(rf"(?:{_SEPARATOR})+{_DESCRIBED}", re.IGNORECASE)
_ALTERNATIVE = re.compile(r"\b(?:or|vs\.?|versus)\b|/", re.IGNORECASE)


# --- cues ----------------------------------------------------------------------------------------------

REACH_WORDS = {"chain": 6, "adjacent": 0}


@dataclass(frozen=True)
class Cue:
    """A phrase at `[start, end)` that says how the names it reaches are meant."""

    start: int
    end: int
    text: str
    status: Status
    reach: str


class Cues:
    """The phrases of assets/cues.yaml, compiled."""

    def __init__(self) -> None:
        """Read the phrases."""
        data = read_asset("cues.yaml")
        self.turn = re.compile(data["turns"], re.IGNORECASE)
        self.before, self.after = ([*_compiled(data[side])] for side in ("before", "after"))

    @staticmethod
    def find(phrases: list[Phrase], text: str, start: int, end: int) -> list[Cue]:
        """Cues inside `[start, end)` that do not overlap, in order; of two the first, then the longer counts."""
        found = [
            Cue(match.start(), match.end(), match[0], status, reach)
            for pattern, status, reach in phrases
            for match in pattern.finditer(text, start, end)
        ]
        kept: list[Cue] = []
        for cue in sorted(found, key=lambda c: (c.start, -c.end)):
            if not kept or cue.start >= kept[-1].end:
                kept.append(cue)
        return kept


Phrase = tuple[re.Pattern[str], Status, str]


def _compiled(groups: list[dict]) -> Iterator[Phrase]:
    for group in groups:
        for phrase in group["phrases"]:
            words = phrase.replace(" ", r"\s+").replace("'", "['’]")
            yield re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE), group["status"], group["reach"]


@cache
def _cues() -> Cues:
    return Cues()


# --- judgement -----------------------------------------------------------------------------------------

Found = tuple[Term, int, int]


def _judge(text: str, start: int, end: int, found: list[Found]) -> Iterator[Mention]:
    """The mentions of one sentence: names that stand in one list share their cue."""
    begin = start
    for number, chain in enumerate(chains := _chains(text, found)):
        stop = chains[number + 1][0][1] if number + 1 < len(chains) else end
        before = _cue_before(text, start, begin, chain[0][1])
        after = _cue_after(text, chain[-1][2], stop)
        begin = chain[-1][2]
        choice = _alternatives(text, chain)
        question = text[start:end].rstrip(" *\n").endswith("?")
        for term, a, b in chain:
            # After "A, B unlikely" without "and" only the last is meant.
            cue = after if after and ((term, a, b) == chain[-1] or _is_joined(text, chain)) else None
            if cue is None or (cue.status == "asserted" and before and before.reach != "sentence"):
                cue = before or cue
            status: Status = cue.status if cue else "asserted"
            said = cue.text if cue else None
            if status == "asserted" and (question or text[:a].endswith("?") or choice):
                status, said = "mentioned", choice or "?"
            yield Mention(term, a, b, text[a:b], status, said)


def _chains(text: str, found: list[Found]) -> list[list[Found]]:
    """Names that nothing but list words separate."""
    chains: list[list[Found]] = []
    for item in found:
        if chains and _GLUE.fullmatch(text, chains[-1][-1][2], item[1]):
            chains[-1].append(item)
        else:
            chains.append([item])
    return chains


def _gaps(text: str, chain: list[Found]) -> list[str]:
    return [text[a[2] : b[1]] for a, b in pairwise(chain)]


def _alternatives(text: str, chain: list[Found]) -> str | None:
    """The "or" of a list that offers names of different groups."""
    if len({term.group for term, _, _ in chain}) < 2:
        return None
    matches = (_ALTERNATIVE.search(gap) for gap in _gaps(text, chain))
    return next((match[0] for match in matches if match), None)


def _is_joined(text: str, chain: list[Found]) -> bool:
    gaps = _gaps(text, chain)
    return not gaps or re.search(r"\b(?:and|or|nor|vs|versus)\b|[/(]", gaps[-1], re.IGNORECASE) is not None


_VERB = re.compile(
    r"\band\s+(?:(?:is|has|had|shows?|now|presents?|with|are|was|were|it|this)\b|\w+ed\b)", re.IGNORECASE
)


def _reaches(cue: Cue, gap: str) -> bool:
    """Whether a phrase reaches a name across the text between them."""
    if cue.reach == "sentence":
        return True
    return "," not in gap and not _VERB.search(gap) and len(WORD.findall(gap)) <= REACH_WORDS[cue.reach]


def _cue_before(text: str, start: int, begin: int, place: int) -> Cue | None:
    """The phrase that rules the name at `place`; `begin` is where the names before it end."""
    asserted: Cue | None = None
    for cue in reversed(_cues().find(_cues().before, text, start, place)):
        gap = text[cue.end : place]
        # A colon right after a phrase ("Differential: ...") only opens its list.
        if _cues().turn.search(gap.lstrip("*").removeprefix(":")):
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


def _cue_after(text: str, place: int, stop: int) -> Cue | None:
    """The phrase that follows the name ending at `place`, before the next name at `stop`."""
    for cue in _cues().find(_cues().after, text, place, stop):
        gap = re.sub(r"^[\s)*\"]*,?\s*(?:which|that)\b", "", text[place : cue.start])
        if _cues().turn.search(gap) or re.search(r"\b(?:and|with|but)\b", gap, re.IGNORECASE):
            return None
        if _reaches(cue, gap):
            return cue
    return None
