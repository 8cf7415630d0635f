"""The format of a record: one table of its keys, `FIELDS`.

Everything that knows the format is derived from this table: the check of a single row (`records.record`), the check
of complete Arrow columns (`records.columns`), and the JSON Schema for other programs:

    python -m skingpt4.records.schema > data/record.schema.json
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS, OTHERS, nearest

CLASS_NAMES = (*CLASSES, OTHERS)
SKIN_TYPES = (1, 2, 3, 4, 5, 6, 12, 34, 56)  # DDI has pairs: 12 means I or II
PHI = ("allowed", "redacted")
MAX_SIDE = 2**31 - 1

_CONCEPTS = frozenset(CONCEPTS)
# A zero, and surrogates that stand for no byte (see `records.naming`).
_NOT_IN_PATHS = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")


class Plain(Enum):
    """Kinds of values that need no parameter. Null is a value of every key but `image`."""

    TEXT = "any text"
    IMAGE_PATH = "the path of an image, the only key that every record has"
    PIXELS = "a side of an image"
    CONCEPTS = "a list of SKINCON's names, none of them twice"
    TURNS = "a list of questions with their answers"


@dataclass(frozen=True)
class Hex:
    """A fixed number of lower-case hex digits."""

    digits: int

    @property
    def pattern(self) -> str:
        """As a regular expression."""
        return f"^[0-9a-f]{{{self.digits}}}$"


@dataclass(frozen=True)
class Choice:
    """One of a few values; `message`, for any other, has places for {key} and {value!r}."""

    values: tuple[str, ...] | tuple[int, ...]
    message: str


Kind = Plain | Hex | Choice


@dataclass(frozen=True)
class Field:
    """A key of a record: which values it takes besides null, and what it means."""

    kind: Kind
    description: str


FIELDS: dict[str, Field] = {
    "image": Field(
        Plain.IMAGE_PATH,
        "Path of the image, relative to the manifest or absolute. A component that ends in .tar or .zip is an "
        "archive and the rest names its member. \\udc80 to \\udcff stand for bytes that are not UTF-8.",
    ),
    "sha256": Field(Hex(64), "SHA-256 of the image file's bytes."),
    "phash": Field(Hex(16), "64-bit perceptual hash of the upright image (ImageHash's phash)."),
    "width": Field(Plain.PIXELS, "Pixels, upright."),
    "height": Field(Plain.PIXELS, "Pixels, upright."),
    "source": Field(Plain.TEXT, "The data set it comes from."),
    "split": Field(Plain.TEXT, "The part of the data set it belongs to, such as train."),
    "concepts": Field(Plain.CONCEPTS, "SKINCON's names. Null: unknown; empty: none of them."),
    "disease": Field(Plain.TEXT, "The diagnosis as the source writes it."),
    "class": Field(
        Choice(CLASS_NAMES, "{value!r} is none of the classes; see skingpt4/taxonomy/taxonomy.py"),
        "One of the paper's 15 classes, others, or null.",
    ),
    "fitzpatrick": Field(
        Choice(SKIN_TYPES, "'{key}' must be 1 to 6, a pair of DDI (12, 34, 56) or null, found {value!r}"),
        "Skin type 1 to 6; 12, 34 and 56 are DDI's pairs.",
    ),
    "body_site": Field(Plain.TEXT, "Where on the body."),
    "note": Field(Plain.TEXT, "A doctor's words."),
    "caption": Field(Plain.TEXT, "What the image shows, for the alignment before step 1."),
    "turns": Field(Plain.TURNS, "A dialogue of the source's own."),
    "rejected": Field(Plain.TURNS, "The same questions with answers that people rated worse (step: dpo)."),
    "case_id": Field(Plain.TEXT, "Images of one case share it, within a source."),
    "patient_id": Field(Plain.TEXT, "Images of one patient share it, within a source."),
    "licence": Field(Plain.TEXT, "Under which terms the image may be used."),
    "phi": Field(
        Choice(PHI, f"'{{key}}' must be one of {', '.join(PHI)} or null, found {{value!r}}"),
        "What was done about protected health information in the note.",
    ),
}
KEYS = tuple(FIELDS)


# ---- what follows from the table


def problem(key: str, value: Any) -> str | None:
    """What is wrong with a value of a key, as a sentence; None for a good one. A value of null is for the caller."""
    match FIELDS[key].kind:
        case Plain.TEXT if not isinstance(value, str):
            return f"'{key}' must be a text, found {value!r}"
        case Plain.IMAGE_PATH if not isinstance(value, str) or not value or _NOT_IN_PATHS.search(value):
            return f"'{key}' must be a path, found {value!r}"
        case Hex() as kind if not isinstance(value, str) or not re.fullmatch(kind.pattern, value):
            return f"'{key}' must be {kind.digits} hex digits (0-9, a-f), found {value!r}"
        case Plain.PIXELS if not _is_integer(value) or not 1 <= value <= MAX_SIDE:
            return f"'{key}' must be a number of pixels, found {value!r}"
        case Choice() as kind if isinstance(value, bool) or value not in kind.values:
            return kind.message.format(key=key, value=value)
        case Plain.CONCEPTS:
            return _problem_of_concepts(key, value)
        case Plain.TURNS if not _are_turns(value):
            return f'\'{key}\' must be a list of {{"question": text, "answer": text}}, none of them empty'
    return None


def _is_integer(value: Any) -> bool:
    """Whether it is an integer in JSON, which does not distinguish 3.0 from 3; in Python a bool is an int too."""
    return type(value) is int or (isinstance(value, float) and value.is_integer())


def _problem_of_concepts(key: str, concepts: Any) -> str | None:
    if not isinstance(concepts, list):
        return f"'{key}' must be a list of SKINCON names, found {concepts!r}"
    for concept in concepts:
        if not isinstance(concept, str) or concept not in _CONCEPTS:
            near = nearest(str(concept), CONCEPTS)
            hint = f"; did you mean {near!r}?" if near else ""
            return f"{concept!r} is none of SKINCON's 48 concepts{hint}"
    return f"'{key}' names one twice: {', '.join(concepts)}" if len(set(concepts)) < len(concepts) else None


def _are_turns(turns: Any) -> bool:
    return isinstance(turns, list) and all(
        isinstance(turn, dict)
        and turn.keys() == {"question", "answer"}
        and all(isinstance(text, str) and text.strip() for text in turn.values())
        for turn in turns
    )


def _json_schema_of(kind: Kind) -> dict[str, Any]:
    match kind:
        case Plain.TEXT:
            return {"type": ["string", "null"]}
        case Plain.IMAGE_PATH:
            return {"type": "string", "minLength": 1, "pattern": r"^[^\u0000]+$"}
        case Hex():
            # In some dialects of regular expressions $ also stands before a final line feed, hence the length.
            return {"type": ["string", "null"], "pattern": kind.pattern, "maxLength": kind.digits}
        case Plain.PIXELS:
            return {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_SIDE}
        case Choice():
            return {"enum": [*kind.values, None]}
        case Plain.CONCEPTS:
            return {"type": ["array", "null"], "uniqueItems": True, "items": {"enum": list(CONCEPTS)}}
        case Plain.TURNS:
            text = {"type": "string", "pattern": r"\S"}
            turn = {"type": "object", "required": ["question", "answer"], "additionalProperties": False,
                    "properties": {"question": text, "answer": text}}  # fmt: skip
            return {"type": ["array", "null"], "items": turn}


def json_schema() -> str:
    """The text of data/record.schema.json."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A record of a manifest",
        "description": "One JSON object a line. Keys of your own begin with x_.",
        "type": "object",
        "required": ["image"],
        "properties": {
            key: {**_json_schema_of(field.kind), "description": field.description}
            for key, field in FIELDS.items()
        },
        "patternProperties": {"^x_": True},
        "additionalProperties": False,
    }
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    print(json_schema(), end="")
