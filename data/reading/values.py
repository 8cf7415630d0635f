"""What a cell says: texts, whole numbers, lists, skin types and diagnoses, however people and programs write them."""

from __future__ import annotations

import ast
import functools
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from data.reading.rows import RowError
from skingpt4.records.blanks import is_blank
from skingpt4.records.schema import SKIN_TYPES
from skingpt4.taxonomy.taxonomy import disease_class, written_out

MAX_LITERAL = 2**20  # characters of a Python or JSON text


def as_text(key: str, value: Any) -> str:
    """A value of a table as a stripped text; null and NaN are empty, and 7.0 is 7 as JSON has it.

    Raises:
        RowError: a list or an object.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, list | dict):
        raise RowError(
            "bad_value", f"{key!r} is not a text but a {'list' if isinstance(value, list) else 'object'}"
        )
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def whole_number(text: str) -> int | None:
    """The whole number that a text is, also as 4.0 or 4,0; None for any other text."""
    match = re.fullmatch(r"([+-]?[0-9]{1,18})(?:[.,]0*)?", text.strip())
    return int(match[1]) if match else None


# --- lists ---------------------------------------------------------------------------------------------

_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_ITEM = re.compile(rf"{_QUOTED}|None|nan", re.DOTALL)
# Python's list, tuple or set of texts; numpy puts no commas between them, and Python would join such texts to one.
_QUOTED_LIST = re.compile(rf"[\[({{](?:[\s,]|{_ITEM.pattern})*+[\])}}]", re.DOTALL)


def literal(text: str) -> Any:
    """The list or object that a text is in JSON or in Python's notation.

    Raises:
        ValueError: it is neither.
    """
    if len(text) > MAX_LITERAL:
        raise ValueError("is too long")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise ValueError("is neither JSON nor Python's notation") from None


def list_of_texts(value: Any) -> list[Any] | None:
    """The items of a list, or of a text that is a list in JSON, Python's or numpy's notation; else None."""
    if isinstance(value, list):
        return value
    text = value.strip() if isinstance(value, str) else ""
    if not text.endswith(("]", ")", "}")):
        return None
    if _QUOTED_LIST.fullmatch(text):
        return [_unquoted(item[0]) for item in _ITEM.finditer(text)]
    if not text.startswith("["):
        return None
    try:
        items = literal(text)
    except ValueError:
        return None
    return items if isinstance(items, list) else None


def _unquoted(item: str) -> str | None:
    """The text of an item of a list: JSON's where it is that, for its escapes are not Python's."""
    if item in ("None", "nan"):
        return None
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError):
            return read(item)
    return item[1:-1]  # with a line break or a backslash as no notation has it


def listed(key: str, value: Any, separators: str = ";|") -> list[str] | None:
    """The texts of a list, in whichever notation, or of a text with separators; None where nothing is given.

    Items that say nothing are left out; a list without items is one.

    Raises:
        RowError: an item that is not a text.
    """
    items = list_of_texts(value)
    if items is None:
        text = as_text(key, value)
        if text == "[]":
            return []
        bare = re.fullmatch(r"\[(.*)\]", text, re.DOTALL)
        items = re.split(f"[{separators},]" if bare else f"[{separators}]", bare[1] if bare else text)
    texts = [text for text in (as_text(key, item) for item in items) if not is_blank(text)]
    return texts if texts or items == [] else None


# --- skin types ----------------------------------------------------------------------------------------

UNREADABLE = "with a skin type that is neither 1 to 6 nor I to VI, read as unknown"
CONFLICTING = "with skin types that are neither one type nor one of DDI's pairs, read as unknown"
_ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6}
_PAIRS = {12: {1, 2}, 34: {3, 4}, 56: {5, 6}}
_SKIN_WORDS = re.compile(r"fitzpatrick|skin|photo|haut|type?|fst|scale|tone|[_:()]|\.(?![0-9])")
_ONE = r"([0-9]+(?:[.,]0+)?|[iv]{1,3})"
_RANGE = re.compile(rf"{_ONE}(?:\s*(?:-|–|—|/|&|,(?=\s)|to|bis|or|oder|and|und)\s*{_ONE})?")


def parse_skin_type(value: Any) -> tuple[int | None, str | None]:
    """A Fitzpatrick type, 1 to 6 or one of DDI's pairs (12, 34, 56), and a remark where a value is not one.

    FST3, "type III", "III-IV" (34) and lists are read; -1 and words for nothing are unknown. A skin type adds to a
    record and never refuses it: what is not a type, or several that are not a pair, is None with a remark.
    """
    types: set[int] = set()
    try:
        texts = listed("fitzpatrick", value) or []
    except RowError:
        return None, UNREADABLE
    for text in texts:
        word = " ".join(_SKIN_WORDS.sub(" ", text.casefold()).split())
        if is_blank(word) or word == "-1":
            continue
        match = _RANGE.fullmatch(word)
        ends = [_single(end) for end in match.groups() if end] if match else [set()]
        if not all(ends):
            return None, UNREADABLE
        types |= set(range(min(set.union(*ends)), max(set.union(*ends)) + 1))
    if not types:
        return None, None
    if len(types) == 1:
        return types.pop(), None
    pair = next((pair for pair, both in _PAIRS.items() if both == types), None)
    return pair, None if pair else CONFLICTING


def _single(text: str) -> set[int]:
    """The types that one number says; empty if it is none."""
    number = _ROMAN.get(text) or whole_number(text)
    return _PAIRS.get(number, {number}) if number in SKIN_TYPES and number is not None else set()


# --- diagnoses -----------------------------------------------------------------------------------------

LIKELIEST = "with several diagnoses, of which the likeliest was taken"
ONE_CLASS = "with several equally likely diagnoses of one class, of which the class alone was taken"
UNDECIDED = "with several equally likely diagnoses of different classes, read as unknown"


@functools.lru_cache(10_000)
def class_of(name: str | None) -> str | None:
    """The class of a diagnosis whose name the taxonomy knows, else None."""
    return disease_class(name) if name else None


@dataclass(frozen=True)
class Diagnosis:
    """What a cell says about the disease: its name, its class, and a remark where one of several was taken."""

    disease: str | None = None
    class_name: str | None = None
    remark: str | None = None


def parse_diagnosis(key: str, value: Any) -> Diagnosis:
    """A diagnosis out of a name, a code (`bkl`), a list, or an object of names with weights, as SCIN writes it.

    Raises:
        RowError: a list or object that holds anything but names and weights.
    """
    weights = _weights(key, value)
    if not weights:
        return Diagnosis()
    likeliest = [name for name, weight in weights.items() if weight == max(weights.values())]
    if len(likeliest) == 1:
        return Diagnosis(likeliest[0], class_of(likeliest[0]), LIKELIEST if len(weights) > 1 else None)
    classes = set(map(class_of, likeliest))
    class_name = classes.pop() if len(classes) == 1 else None
    return Diagnosis(None, class_name, ONE_CLASS if class_name else UNDECIDED)


def _weights(key: str, value: Any) -> dict[str, float]:
    """Names of diseases, codes written out, with their weights."""
    if isinstance(value, str) and value.strip().startswith("{"):
        try:
            value = literal(value)
        except ValueError:
            raise RowError("bad_value", f"{key!r} begins with {{ and is not an object of names") from None
    items = list_of_texts(value)
    if isinstance(value, dict):
        items = list(value)
        if not all(isinstance(w, int | float) and -1e300 < w < 1e300 for w in value.values()):
            raise RowError("bad_value", f"{key!r} is an object whose values are not all numbers")
    names = [as_text(key, item) for item in ([value] if items is None else items)]
    numbers = value.values() if isinstance(value, dict) else [1.0] * len(names)
    weights: dict[str, float] = {}
    for name, weight in zip(names, numbers, strict=True):
        if not is_blank(name):
            name = written_out(name)
            weights[name] = weights.get(name, 0.0) + float(weight)
    return weights
