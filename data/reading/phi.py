"""Finds and removes what could name a patient in free text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import phonenumbers

from skingpt4.records.blanks import is_blank
from skingpt4.support.errors import UserError, reason_of
from skingpt4.support.regular import read_regular_text
from skingpt4.taxonomy.taxonomy import disease

KINDS = (
    "name", "date_of_birth", "date", "phone", "email", "record_number", "national_id", "address", "url",
)  # fmt: skip
_WORD = r"[A-Z][\w'’]*(?:-[A-Z]?[\w'’]+)*"  # Al-Harbi, O'Connor
_PARTICLE = r"(?:van|von|der|den|de|da|di|del|la|le|bin|ibn|al|el|ter|ten|dos|du)"
_INITIAL = r"[A-Z]\."
_FULL_NAME = rf"(?:(?:{_INITIAL}|{_WORD}|{_PARTICLE})\s+)*{_WORD}"
_TITLE = r"(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Professor|Doctor|Sir|Dame|Herr|Frau|Mme|Sr|Sra)"
_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?"
    r"|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_DAY = r"(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)?"
_YEAR = r"(?:1[89]|20)\d\d"
_UNITS = r"\s*(?:%|mm|cm|mg|ml|hours?|days?|weeks?|months?|years?)\b"  # 10/12/15 mm is not a date
_DATE = (
    rf"(?:{_YEAR}[-/.]\d{{1,2}}[-/.]\d{{1,2}}|\d{{1,2}}[-/.]\d{{1,2}}[-/.]{_YEAR}"
    rf"|{_DAY}(?:\s+of)?[-\s]+{_MONTH},?[-\s]+{_YEAR}|{_MONTH}\s+{_DAY},?\s+{_YEAR}"
    # Two digits for the year: day and month in either order, so that few other numbers look alike.
    r"|(?<![\d./])(?:(?:0?[1-9]|[12]\d|3[01])/(?:0?[1-9]|1[0-2])|(?:0?[1-9]|1[0-2])/(?:0?[1-9]|[12]\d|3[01]))/\d\d"
    rf"(?![\d/]|{_UNITS})|(?<![\d./])(?:0?[1-9]|[12]\d|3[01])\.(?:0?[1-9]|1[0-2])\.\d\d(?![\d/]|\.\d|{_UNITS}))"
)
_STREET = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Close|Court|Ct|Crescent|Terrace|Place|Pl"
    r"|Square|Sq|Way|Gardens|Grove|Hill|Row|Mews|Parkway|Pkwy|Highway|Hwy)\b\.?"
)
_PLACE = r"[A-Z](?:[^\W\d_]|['’.])*(?:\s+[A-Z](?:[^\W\d_]|['’.])*)*\b"  # no part of a postal code
_ZIP = r"(?:(?:[A-Z]{2}\s+)?\d{5}(?:-\d{4})?|[A-Z]{1,2}\d[A-Z\d]?\s*\d[A-Z]{2})"
_UNIT = r"(?:Flat|Apt\.?|Apartment|Unit|Suite)\s+\w+"
# A town and a postal code belong to the address that they follow.
_TAIL = rf"(?:,\s*{_UNIT})?(?:,\s*{_PLACE})?(?:,?\s+{_ZIP}\b)?"
_NUMBER = r"(?=[\w/-]*\d)[A-Z0-9][\w/-]*\w"  # a code with at least one digit
# Most specific first: a place belongs to the first pattern that matches it. If a pattern has a group, the group is
# the place, and the text around it is what identifies it.
_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("email", r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
        ("url", r"(?i:\b(?:https?://|www\.)\S+[\w/])"),
        (
            "date_of_birth",
            rf"(?i:\b(?:d\.?\s?o\.?\s?b\.?|date\s+of\s+birth|birth\s*-?date|born)\b\.?(?:\s+on)?)\s*[:=]?\s*"
            rf"({_DATE}|\d{{1,2}}[-/.](?:\d{{1,2}}|{_MONTH})[-/.]\d{{2,4}})",
        ),
        (
            "national_id",
            r"(?i:\b(?:SSN|social\s+security(?:\s+(?:number|no\.?))?|NHS\s*(?:number|no\.?)?|passport(?:\s+no\.?)?"
            r"|national\s+id)\b)\W{0,3}(\d[\d -]{5,}\d|[A-Z]{1,2}\d{6,})",
        ),
        ("national_id", r"\b(\d{3}-\d{2}-\d{4})\b"),
        (
            "record_number",
            r"(?i:\b(?:(?:MRN|accession|patient\s+id|medical\s+record|case\s+file)(?:\s+(?:number|no\.?))?"
            r"|ref(?:erence)?\.?\s*:|(?:record|hospital|chart|file|insurance|policy|account|encounter|visit"
            r"|specimen|member|case|sample|order|lab(?:oratory)?|ref(?:erence)?)\s+(?:id|number|num\.?|no\.?|\#))"
            r"\s*(?:[#:.=]\s*){0,2})" + f"({_NUMBER})",
        ),
        ("address", r"\b(?:P\.?\s?O\.?\s+)Box\s+\d+" + _TAIL),
        ("address", rf"(?:\b{_UNIT},\s*)?\b\d{{1,5}}[A-Za-z]?\s+(?:[A-Z][\w'’.]*\s+){{1,4}}{_STREET}{_TAIL}"),
        (
            "address",
            rf"(?i:\b(?:address|lives\s+(?:at|in|on)|living\s+(?:at|in|on)|resides\s+(?:at|in|on))\b)\s*:?\s*"
            rf"({_PLACE}\s+\d{{1,5}}[a-z]?{_TAIL})",
        ),
        ("date", _DATE),
        ("name", rf"\b{_TITLE}\.?\s+{_FULL_NAME}(?:,?\s+M\.?D\.?\b)?"),
        (
            "name",
            rf"(?:\b(?i:(?:patient|pt|full)?\s*name|patient|signed|surname))\s*(?::|\bname\s)\s*"
            rf"({_FULL_NAME}(?:,\s+{_WORD})?)",
        ),
        (
            "name",
            r"(?i:\b(?:mother|father|wife|husband|son|daughter|brother|sister|carer|partner|patient|neighbour)),\s*"
            rf"({_WORD}\s+{_FULL_NAME})",
        ),
    )
)
_PHONE_LABEL = re.compile(
    r"(?i)\b(?:tel(?:ephone)?|phone|mobile|cell|fax|call|ring|number\s+is|reached)\b[^\d+(]{0,30}"
    r"(\+?[\d(][\d(). -]{5,}\d)"
)
# Words that begin with a capital after a title and are not the name of a person.
_NOT_NAMES = frozenset(
    {"The", "This", "That", "Patient", "Recommends", "Will", "Has", "Was", "Is", "And", "Mrs", "Miss", "Ms"}
)
# What stands after "Patient:" in place of a name. Some of these words are surnames, too, so that one of the others
# must stand beside them: "White male" is not a name, "White" may be one.
_PEOPLE = frozenset({
    "male", "female", "man", "woman", "boy", "girl", "child", "infant", "baby", "newborn", "neonate", "toddler",
    "teenager", "adolescent", "adult", "elderly", "middle-aged", "pregnant", "anonymous", "caucasian", "asian",
    "african", "american", "african-american", "european", "hispanic", "latino", "latina", "arab", "mediterranean",
    "männlich", "weiblich",
})  # fmt: skip
_PEOPLE_OR_SURNAMES = frozenset({"white", "black", "brown", "young", "old", "fair", "dark"})


class PhiError(UserError):
    """A file that cannot be scanned or measured; the message says which and why."""


@dataclass(frozen=True)
class Finding:
    """A place in a text, `text[start:end]`, and what it is: one of KINDS."""

    kind: str
    start: int
    end: int
    text: str


def scan(text: str, regions: Sequence[str] = ("US", "GB")) -> list[Finding]:
    """Places of a text that identify a person, in order, not overlapping.

    Args:
        text: a note.
        regions: countries (ISO 3166) whose national forms of telephone numbers are known; numbers that begin
            with + are found for all countries.
    """
    findings: list[Finding] = []
    for kind, start, end in _candidates(text, regions):
        if not any(start < f.end and f.start < end for f in findings):
            findings.append(Finding(kind, start, end, text[start:end]))
    return sorted(findings, key=lambda f: f.start)


def _candidates(text: str, regions: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    for kind, pattern in _PATTERNS:
        for match in pattern.finditer(text):
            start, end = match.span(match.lastindex or 0)
            if kind != "name" or not (
                _NOT_NAMES & set(text[start:end].split()[1:2]) or _is_described(text, start, end)
            ):
                yield kind, start, end
    for match in _PHONE_LABEL.finditer(text):
        yield "phone", *match.span(1)
    # libphonenumber judges length and grouping; a dose or a measure in millimetres does not pass.
    for region in regions:
        for number in phonenumbers.PhoneNumberMatcher(text, region, leniency=phonenumbers.Leniency.POSSIBLE):
            digits = sum(c.isdigit() for c in number.raw_string)
            if digits >= 10 and (digits != len(number.raw_string)):
                yield "phone", number.start, number.end


def _is_described(text: str, start: int, end: int) -> bool:
    """Whether what stands in a name's place describes the patient (Female, Unknown, Psoriasis)."""
    place, after = text[start:end], text[end:].split()[:1]
    words = place.casefold().replace(",", " ").split()
    beside = {word.strip(".,;:") for word in after}
    described = set(words) <= _PEOPLE | _PEOPLE_OR_SURNAMES and bool(_PEOPLE & ({*words} | beside))
    has_disease = not place.isupper() and disease(place) is not None  # capitals may be initials
    return described or is_blank(place) or has_disease


def redact(text: str, regions: Sequence[str] = ("US", "GB")) -> str:
    """The text with every finding replaced by its kind in square brackets, e.g. ``[name]``."""
    for finding in reversed(scan(text, regions)):
        text = f"{text[: finding.start]}[{finding.kind}]{text[finding.end :]}"
    return text


def read_labelled(path: str | Path) -> Iterator[tuple[str, list[Finding]]]:
    """Notes of a labelled file, one per line, places marked as ``{kind|text}``; lines that begin with # are skipped.

    Raises:
        PhiError: the file does not exist or names an unknown kind.
    """
    for number, line in enumerate(read_lines(path), 1):
        if line.startswith("#") or not line.strip():
            continue
        text, places, last = "", [], 0
        for mark in re.finditer(r"\{(\w+)\|([^}]*)\}", line):
            kind, inner = mark.groups()
            if kind not in KINDS:
                raise PhiError(f"{path}, line {number}: {kind!r} is none of {', '.join(KINDS)}")
            text += line[last : mark.start()]
            places.append(Finding(kind, len(text), len(text) + len(inner), inner))
            text, last = text + inner, mark.end()
        yield text + line[last:], places


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file.

    Raises:
        PhiError: it cannot be read.
    """
    try:
        return read_regular_text(path, None).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PhiError(f"{path}: cannot be read ({reason_of(error)})") from None


@dataclass(frozen=True)
class Measured:
    """Counts over labelled notes; a place counts as found if any finding overlaps it, of any kind."""

    places: int
    places_found: int
    places_covered: int  # every letter of them: what `redact` removes completely
    findings: int
    findings_right: int
    missed: Counter[str]
    clean_notes: int
    clean_notes_flagged: int


def measure(notes: Iterator[tuple[str, list[Finding]]]) -> Measured:
    """Compare `scan` with the marked places; a finding is right if it overlaps a marked place."""
    counts: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for text, places in notes:
        findings = scan(text)
        for place in places:
            hit = any(f.start < place.end and place.start < f.end for f in findings)
            counts["found"] += hit
            counts["covered"] += any(f.start <= place.start and place.end <= f.end for f in findings)
            missed[place.kind] += not hit
        counts["places"] += len(places)
        counts["findings"] += len(findings)
        counts["right"] += sum(any(f.start < p.end and p.start < f.end for p in places) for f in findings)
        counts["clean"] += not places
        counts["flagged"] += not places and bool(findings)
    return Measured(
        counts["places"], counts["found"], counts["covered"], counts["findings"], counts["right"],
        +missed, counts["clean"], counts["flagged"],
    )  # fmt: skip


def rate(hits: int, n: int) -> str:
    """A fraction with its Wilson interval of 95 %, for people."""
    from scipy.stats import binomtest  # here: it takes a second to import, and a scan does not need it

    if not n:
        return "none to judge"
    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return f"{hits / n:.1%} ({hits} of {n}; 95 % interval {interval.low:.1%} to {interval.high:.1%})"
