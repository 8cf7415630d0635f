"""A record: one picture with what is known of it, as one JSON object on one line of a manifest.

    {"image": "images/000123.jpg", "sha256": "9f86...", "phash": "e0f8c4d2b1a09784", "width": 800, "height": 600,
     "source": "phantoms", "split": "train", "concepts": ["Plaque", "Scale"], "disease": "psoriasis",
     "class": "psoriasis_and_lichen_planus", "fitzpatrick": 3, "body_site": "forearm",
     "note": "Silvery plaques on the forearm.", "turns": [{"question": "Does it itch?", "answer": "It may."}],
     "case_id": "phantom-train-000123", "patient_id": null, "licence": "Apache-2.0", "phi": null}

Only `image` must be there. `data/record.schema.json` says the same as `parse_record`, for other programs.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skingpt4.support.errors import UserError
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS

TEXT_KEYS = ("source", "split", "disease", "body_site", "note", "case_id", "patient_id", "licence")
HEX_KEYS = {"sha256": 64, "phash": 16}
KEYS = (
    "image", "sha256", "phash", "width", "height", "source", "split", "concepts", "disease", "class",
    "fitzpatrick", "body_site", "note", "turns", "case_id", "patient_id", "licence", "phi",
)  # fmt: skip
CLASS_NAMES = (*CLASSES, "others")
SKIN_TYPES = (1, 2, 3, 4, 5, 6, 12, 34, 56)  # DDI knows pairs: 12 stands for I or II
PHI = ("allowed", "redacted")
MAX_SIDE = 2**31 - 1

_CONCEPTS = frozenset(CONCEPTS)


class RecordError(UserError):
    """A manifest that cannot be used; the message names file, line and reason."""


@dataclass(frozen=True)
class Record:
    """One picture with what is known of it; None or empty means unknown.

    `turns` holds (question, answer) pairs of a source that has its own dialogue; `phi` says how protected
    health information in the note was treated.
    """

    image_path: Path
    sha256: str | None = None
    source: str | None = None
    concepts: tuple[str, ...] | None = None
    disease: str | None = None
    class_name: str | None = None
    fitzpatrick: int | None = None
    body_site: str | None = None
    note: str | None = None
    case_id: str | None = None
    phash: str | None = None
    width: int | None = None
    height: int | None = None
    split: str | None = None
    turns: tuple[tuple[str, str], ...] = ()
    patient_id: str | None = None
    licence: str | None = None
    phi: str | None = None


def parse_line(line: bytes, where: str) -> dict[str, Any]:
    """One line of a manifest as a checked row with all `KEYS`; see `check_row`.

    Args:
        line: UTF-8, with or without the line's end.
        where: file and line, for the message.

    Raises:
        RecordError: no UTF-8, no JSON, or no record.
    """
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RecordError(f"{where}: is not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise RecordError(f"{where}: is not JSON ({error.msg})") from None
    except (RecursionError, ValueError) as error:  # nested too deep, or a number of thousands of digits
        raise RecordError(f"{where}: is not JSON that can be read ({type(error).__name__})") from None
    if b"\\u" in line and not _is_text(row):
        raise RecordError(f"{where}: holds half of a surrogate pair (\\ud800 to \\udfff), which is no text")
    return check_row(row, where)


def check_row(row: Any, where: str) -> dict[str, Any]:
    """The row with every key of `KEYS` (None where unknown) if it is a record; own keys (`x_...`) are dropped.

    Raises:
        RecordError: the first thing that is wrong, in one sentence that begins with `where`.
    """
    if not isinstance(row, dict) or not isinstance(row.get("image"), str):
        raise RecordError(f"{where}: a record is a JSON object with at least 'image'")
    for key in row:
        if key not in KEYS and not key.startswith("x_"):
            near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise RecordError(
                f"{where}: {key!r} is no key of a record; {hint}(keys of your own begin with 'x_')"
            )
    checked = {key: row.get(key) for key in KEYS}
    if not row["image"] or "\0" in row["image"]:
        raise RecordError(f"{where}: 'image' must be a path, found {row['image']!r}")
    for key in TEXT_KEYS:
        if not isinstance(checked[key], str | None):
            raise RecordError(f"{where}: '{key}' must be a text, found {checked[key]!r}")
    for key, digits in HEX_KEYS.items():
        value = checked[key]
        if value is not None and not (
            isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{digits}}}", value)
        ):
            raise RecordError(f"{where}: '{key}' must be {digits} hex digits (0-9, a-f), found {value!r}")
    for key in ("width", "height"):
        value = checked[key] = _whole(checked[key])
        if value is not None and (type(value) is not int or not 1 <= value <= MAX_SIDE):
            raise RecordError(f"{where}: '{key}' must be a number of pixels, found {row[key]!r}")
    skin = checked["fitzpatrick"] = _whole(checked["fitzpatrick"])
    if skin is not None and (type(skin) is not int or skin not in SKIN_TYPES):
        raise RecordError(
            f"{where}: 'fitzpatrick' must be 1 to 6, a pair of DDI (12, 34, 56) or null, "
            f"found {row['fitzpatrick']!r}"
        )
    if checked["class"] is not None and checked["class"] not in CLASS_NAMES:
        raise RecordError(
            f"{where}: {row['class']!r} is none of the classes; see skingpt4/taxonomy/taxonomy.py"
        )
    if checked["phi"] is not None and checked["phi"] not in PHI:
        raise RecordError(f"{where}: 'phi' must be one of {', '.join(PHI)} or null, found {row['phi']!r}")
    _check_concepts(checked["concepts"], where)
    _check_turns(checked["turns"], where)
    return checked


def _whole(value: Any) -> Any:
    """A number without fraction as an int, since JSON does not tell 3.0 from 3; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_concepts(concepts: Any, where: str) -> None:
    if concepts is None:
        return
    if not isinstance(concepts, list):
        raise RecordError(f"{where}: 'concepts' must be a list of SKINCON names, found {concepts!r}")
    for concept in concepts:
        if not isinstance(concept, str) or concept not in _CONCEPTS:
            near = difflib.get_close_matches(str(concept), CONCEPTS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise RecordError(f"{where}: {concept!r} is none of SKINCON's 48 concepts{hint}")
    if len(set(concepts)) < len(concepts):
        raise RecordError(f"{where}: 'concepts' names one twice: {', '.join(concepts)}")


def _check_turns(turns: Any, where: str) -> None:
    if turns is None:
        return
    fits = isinstance(turns, list) and all(
        isinstance(turn, dict)
        and turn.keys() == {"question", "answer"}
        and all(isinstance(text, str) and text.strip() for text in turn.values())
        for turn in turns
    )
    if not fits:
        raise RecordError(
            f'{where}: \'turns\' must be a list of {{"question": text, "answer": text}}, none of them empty'
        )


def _is_text(row: Any) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def record_of(row: Mapping[str, Any], folder: Path) -> Record:
    """A checked row as a `Record` whose picture stands relative to `folder`."""
    concepts, turns = row["concepts"], row["turns"]
    return Record(
        image_path=folder / row["image"],
        class_name=row["class"],
        concepts=None if concepts is None else tuple(concepts),
        turns=tuple((turn["question"], turn["answer"]) for turn in turns or ()),
        **{key: row[key] for key in KEYS if key not in ("image", "class", "concepts", "turns")},
    )
