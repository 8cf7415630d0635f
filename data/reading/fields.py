"""Values of people's own tables as values of a record, and what identifies a person in them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from data.reading.rows import RowError, did_you_mean
from skingpt4.records.schema import CLASS_NAMES, SKIN_TYPES
from skingpt4.taxonomy.taxonomy import CONCEPTS, concept, disease_class

SCANNED = ("note", "disease", "body_site", "turns", "x_history", "x_reference")  # free texts of a record
MAX_SHOWN = 40  # characters of a value that a refusal shows


def parse_class(text: str) -> str | None:
    """A class name of the paper, or None for an empty text.

    Raises:
        RowError: another name.
    """
    name = text.strip()
    if not name:
        return None
    if name not in CLASS_NAMES:
        raise RowError(
            "unknown_class",
            f"class {name[:MAX_SHOWN]!r} is none of the paper's{did_you_mean(name, CLASS_NAMES)}",
        )
    return name


@functools.lru_cache(10_000)
def class_of(disease: str | None) -> str | None:
    """The class of a diagnosis whose exact name the taxonomy knows, else None."""
    return disease_class(disease) if disease else None


_ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6}
_UNKNOWN = ("", "-1", "none", "null", "nan", "na", "n/a", "unknown")


def parse_skin_type(text: str) -> int | None:
    """A Fitzpatrick type, 1 to 6 or one of DDI's pairs (12, 34, 56); None for -1, an empty text, unknown.

    Raises:
        RowError: another value.
    """
    word = text.strip().lower().removeprefix("type").removesuffix(".0").strip()
    if word in _UNKNOWN:
        return None
    if word in _ROMAN:
        return _ROMAN[word]
    if word.isascii() and word.isdigit() and int(word) in SKIN_TYPES:
        return int(word)
    raise RowError(
        "bad_value", f"skin type {text[:MAX_SHOWN]!r} is none of 1 to 6, I to VI, or a pair (12, 34, 56)"
    )


def as_text(key: str, value: Any) -> str:
    """A value of a table as a stripped text; numbers are written out, null and NaN are empty.

    Raises:
        RowError: a list or an object.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, list | dict):
        raise RowError(
            "bad_value", f"{key!r} is not a text but a {'list' if isinstance(value, list) else 'object'}"
        )
    return str(value).strip()


def parse_concepts(value: Any) -> list[str] | None:
    """SKINCON's names, in SKINCON's order, out of a list or a text; None where nothing is given.

    Raises:
        RowError: an unknown name.
    """
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            raise RowError("bad_value", "'concepts' begins with [ and is not a JSON list") from None
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    names = (
        value
        if isinstance(value, list)
        else as_text("concepts", value).translate({44: ";", 124: ";"}).split(";")
    )
    known = set()
    for name in filter(None, (str(name).strip() for name in names)):
        spelled = concept(name)
        if spelled is None:
            raise RowError(
                "unknown_concept",
                f"{name[:MAX_SHOWN]!r} is none of SKINCON's 48 concepts{did_you_mean(name, CONCEPTS)}",
            )
        known.add(spelled)
    return [name for name in CONCEPTS if name in known]


def parse_turns(value: Any) -> list[dict[str, str]] | None:
    """A dialogue, out of a list or a JSON text; None where there is none.

    Raises:
        RowError: not a list of questions with answers.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError:
            raise RowError("bad_value", "'turns' is not JSON") from None
    if not value:
        return None
    if not isinstance(value, list) or not all(
        isinstance(t, dict) and t.keys() == {"question", "answer"} for t in value
    ):
        raise RowError("bad_value", "'turns' must be a list of objects with 'question' and 'answer'")
    return [{key: as_text(key, turn[key]) for key in ("question", "answer")} for turn in value]


def treat_phi(fields: dict[str, Any], phi: str) -> tuple[str, ...]:
    """Refuse, redact or allow what identifies a person in a row's texts; changes `fields` and returns remarks.

    Raises:
        RowError: `phi` is "refuse" and something was found; names the kinds, never the text.
    """
    from data.reading.phi import redact, scan  # here: processes that only read images import this file too

    kinds: set[str] = set()

    def treat(text: str) -> str:
        kinds.update(finding.kind for finding in scan(text))
        return redact(text) if phi == "redact" else text

    for key in SCANNED:
        if fields.get(key):
            fields[key] = each_text(fields[key], treat)
    if not kinds:
        return ()
    if phi == "refuse":
        raise RowError("phi", f"seems to identify a person: {', '.join(sorted(kinds))}")
    fields["phi"] = "redacted" if phi == "redact" else "allowed"
    return (f"with what seems to identify a person, {fields['phi']}",)


def each_text(value: Any, change: Callable[[str], str]) -> Any:
    """The same text, list or object with every text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [each_text(item, change) for item in value]
    return {key: each_text(item, change) for key, item in value.items()} if isinstance(value, dict) else value
