"""Names of diseases or findings, and where they are in a text, whatever their spelling."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Term:
    """A name of a disease or finding, its usual name and group; `only_alone` if it counts only as a complete text."""

    name: str
    usual: str
    group: str | None
    only_alone: bool = False


# --- words ---------------------------------------------------------------------------------------------

# Letters and digits with combining accents, and the ending of a possessive.
WORD = re.compile(r"(?:[^\W_][\u0300-\u036f]*)+(?:['’][sS]\b)?")
# Endings of plurals; the first match wins. British spelling has become American before.
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
    """Terms, indexed by the normal forms of their words, to be looked up and found in texts.

    Args:
        terms: the names; of two with the same form the first counts.
        words: abbreviations that are also words.
    """

    def __init__(self, terms: Iterable[Term], words: Iterable[str] = ()) -> None:
        self.terms: dict[tuple[str, ...], Term] = {}
        self._joined_forms: dict[str, Term] = {}  # where hyphens and blanks do not matter
        self._lengths: dict[str, set[int]] = {}
        self.words = frozenset(words)
        for term in terms:
            forms = tuple(normal_form(word) for word in WORD.findall(term.name))
            self.terms.setdefault(forms, term)
            self._joined_forms.setdefault("".join(forms), term)
            self._lengths.setdefault(forms[0], set()).add(len(forms))

    def get(self, text: str) -> Term | None:
        """The term that the complete text is, up to spelling, case, punctuation, blanks and hyphens."""
        forms = tuple(normal_form(word) for word in WORD.findall(text))
        return self.terms.get(forms) or self._joined_forms.get("".join(forms))

    def find(self, text: str) -> Iterator[tuple[Term, int, int]]:
        """Terms in the text from left to right with their spans, the longest at each place."""
        words = list(WORD.finditer(text))
        forms = [normal_form(word[0]) for word in words]
        all_capitals = not any(c.islower() for c in text) and len(words) > 2
        place = 0
        while place < len(words):
            for length in sorted(self._lengths.get(forms[place], ()), reverse=True):
                last = place + length - 1
                if last >= len(words):
                    continue
                term = self.terms.get(tuple(forms[place : last + 1]))
                if term is None or term.only_alone or not self._joined(text, words[place : last + 1], term):
                    continue
                if length == 1 and not self._capitals_fit(words[place][0], term, all_capitals):
                    continue
                yield term, words[place].start(), words[last].end()
                place = last
                break
            place += 1

    def _joined(self, text: str, words: Sequence[re.Match[str]], term: Term) -> bool:
        """Whether only a space, hyphen or slash separates the words (or a comma that the term has too)."""
        gaps = [text[a.end() : b.start()] for a, b in pairwise(words)]
        allowed = r"\s*[,_–/\-]?\s*" if "," in term.name else r"\s*[_–/\-]?\s*"
        return all(re.fullmatch(allowed, gap) for gap in gaps)

    def _capitals_fit(self, word: str, term: Term, all_capitals: bool) -> bool:
        """Whether an abbreviation is in its own capitals; an unmistakable one may be in small letters."""
        if not _is_abbreviation(term.name):
            return True
        if word in (term.name, term.name + "s"):
            return not (all_capitals and term.name in self.words)
        return word == term.name.lower() and len(word) > 2 and term.name not in self.words
