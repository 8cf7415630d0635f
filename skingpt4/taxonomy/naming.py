"""Complete names as lists of real data sets have them, reduced to a name that the lexicon knows.

"Dyshidrotic eczema (pompholyx)", "Arthropod bites and stings", "Naevus, melanocytic", "Facial psoriasis": brackets,
lists, inversions and words for site, form, age and course do not change which disease a complete name is. Only names
that are not known as they stand are reduced, and never names within a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator

from skingpt4.taxonomy.lexicon import WORD, Term, normal_form

Lookup = Callable[[str], Term | None]

_BRACKETS = re.compile(r"\s*[(\[]([^()\[\]]*)[)\]]")
_LIST = re.compile(r"\s+(?:and|or|und)\s+|\s*[,;/&+]\s*", re.IGNORECASE)
# What begins a phrase that says where, when or why.
_PHRASE = re.compile(
    r"\s+(?:of|on|in|at|from|due to|caused by|secondary to|associated with|affecting|involving|during|after|by|with|"
    r"without|type|variant|unspecified|NOS)\b.*|\s*(?:[-–:]|,)\s+.*",
    re.IGNORECASE,
)
MAX_LENGTH = 250  # of a name that is reduced; the longest label in data_sets.yaml has 78 characters
_ABBREVIATED = re.compile(
    r"^[A-Z/]{2,6}\s+[-–]\s+"
)  # "CD - Contact dermatitis", as SNOMED CT writes its names
_INDUCED = re.compile(r"^\w+[- ](?:induced|related|associated)\s+", re.IGNORECASE)


def reduced(name: str, lookup: Lookup, qualifiers: Collection[str]) -> Term | None:
    """The disease of a complete name that is not known as it stands; None if no reduction is known.

    Args:
        name: such as "Dyshidrotic eczema (pompholyx)".
        lookup: the term of a name that is known as it stands.
        qualifiers: normal forms of words that say site, form, age or course.
    """
    if len(name) > MAX_LENGTH:
        return None
    for part in _parts(name):
        if term := lookup(part) or _without_qualifiers(part, lookup, qualifiers):
            return term
    members = [part for part in _LIST.split(_BRACKETS.sub("", name)) if part]
    if len(members) > 1:
        terms = [lookup(part) or _without_qualifiers(part, lookup, qualifiers) for part in members]
        known = [term for term in terms if term]
        if known and len({term.group for term in known}) == 1:
            return known[0]
    return None


def _parts(name: str) -> Iterator[str]:
    """The name with what is in brackets before it, without it, with its words in order, and without phrases."""
    plain, inside = _BRACKETS.sub("", name).strip(), _BRACKETS.findall(name)
    first, comma, rest = plain.partition(",")
    yield from (f"{words} {plain}" for words in inside)
    yield plain
    if comma and "," not in rest:
        yield f"{rest} {first}"
    yield from inside
    yield _ABBREVIATED.sub("", plain)
    yield _INDUCED.sub("", plain)
    yield _PHRASE.sub("", plain)


def _without_qualifiers(name: str, lookup: Lookup, qualifiers: Collection[str]) -> Term | None:
    """The disease behind words for site and form at the beginning and the end; as few as possible are left out."""
    words = WORD.findall(name)
    is_qualifier = [normal_form(word) in qualifiers for word in words]
    spans = [
        (start, end)
        for start in range(len(words))
        for end in range(start + 1, len(words) + 1)
        if all(is_qualifier[:start]) and all(is_qualifier[end:])
    ]
    for start, end in sorted(spans, key=lambda span: span[0] - span[1]):
        if term := lookup(" ".join(words[start:end])):
            return term
    return None
