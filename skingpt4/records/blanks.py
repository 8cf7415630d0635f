"""Words that people and programs write into a cell where nothing is known: `nan`, `None`, `n/a`, `unknown`, `-`.

Every reader of the project asks this module: tables, manifests, cases, ratings and metadata. Such a word is an empty
cell. It is never taught, and as an identifier it ties no two records together.
"""

from __future__ import annotations

import unicodedata

# By language; a language that the pages speak has an entry. No word holds a digit other than 0, and `columns` relies
# on that. Abbreviations of diseases are none of them: KA is keratoacanthoma, so only `k.A.` means "keine Angabe".
BLANK_WORDS: dict[str, tuple[str, ...]] = {
    "programs": ("nan", "nat", "na", "none", "null", "nil", "undefined", "unk"),
    "en": (
        "n/a", "n.a", "n/k", "n.k", "unknown", "not known", "not available", "not applicable", "not specified",
        "not stated", "not given", "not reported", "not recorded", "not documented", "not provided", "unspecified",
        "unreported", "missing", "no data", "no information", "no entry",
    ),
    "de": (
        "k.a", "k/a", "o.a", "unbekannt", "nicht bekannt", "nicht verfügbar", "nicht vorhanden", "nicht zutreffend",
        "nicht angegeben", "nicht dokumentiert", "nicht erhoben", "nicht erfasst", "keine", "keine angabe",
        "keine angaben", "ohne angabe", "ohne angaben", "keine daten", "keine information", "entfällt", "fehlt",
        "fehlend",
    ),
}  # fmt: skip
# What a formula that fails leaves in a cell; without their marks these are words like others ("nv" is a nevus).
FORMULA_ERRORS = (
    "#n/a", "#ref!", "#value!", "#name?", "#div/0!", "#num!", "#null!", "#nv", "#bezug!", "#wert!", "#zahl!",
)  # fmt: skip
MAX_BYTES = 48  # of a text in UTF-8 without outer spaces; a longer one says something

_WORDS = frozenset(word for words in BLANK_WORDS.values() for word in words)
_MARKS = " \"'`“”„‘’«»()[]{}<>#*.,;:!?…-‐‑–—_=~|/\\\u200b\u2060\ufeff"  # <NA>, #N/A, (none), "unknown", N.A., --, ???


def is_blank(text: str) -> bool:
    """Whether a text says nothing: it is empty, marks alone, or one of `BLANK_WORDS` or `FORMULA_ERRORS`.

    Case, brackets and marks around a word do not matter.
    """
    text = text.strip()
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        return False
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    word = plain.replace(". ", ".").strip(_MARKS)
    return not word or word in _WORDS or plain in FORMULA_ERRORS


def text_or_none(text: str | None) -> str | None:
    """The text itself, or None where it says nothing; see `is_blank`."""
    return None if text is None or is_blank(text) else text
