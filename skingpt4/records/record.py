"""A record: one image with what is known about it, as one JSON object on one line of a manifest.

    {"image": "images/000123.jpg", "sha256": "9f86...", "phash": "e0f8c4d2b1a09784", "width": 800, "height": 600,
     "source": "phantoms", "split": "train", "concepts": ["Plaque", "Scale"], "disease": "psoriasis",
     "class": "psoriasis_and_lichen_planus", "fitzpatrick": 3, "body_site": "forearm",
     "note": "Silvery plaques on the forearm.", "caption": "Scaly plaques on a forearm.",
     "turns": [{"question": "Does it itch?", "answer": "It may."}],
     "case_id": "phantom-train-000123", "patient_id": null, "licence": "Apache-2.0", "phi": null}

Only `image` is required. `records.schema` defines the keys and their values.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skingpt4.records.blanks import is_blank, text_or_none
from skingpt4.records.naming import image_path
from skingpt4.records.schema import FIELDS, KEYS, Plain, problem
from skingpt4.support.errors import UserError


class RecordError(UserError):
    """A manifest that cannot be used; the message names file, line and reason."""


@dataclass(frozen=True)
class Record:
    """One image with what is known about it; None or empty means unknown.

    `turns` holds (question, answer) pairs of a source that has its own dialogue, and `rejected` the same questions
    with answers that people rated worse; `phi` says how protected health information in the note was treated.
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
    caption: str | None = None
    case_id: str | None = None
    phash: str | None = None
    width: int | None = None
    height: int | None = None
    split: str | None = None
    turns: tuple[tuple[str, str], ...] = ()
    patient_id: str | None = None
    licence: str | None = None
    phi: str | None = None
    rejected: tuple[tuple[str, str], ...] = ()


def parse_line(line: bytes, where: str) -> dict[str, Any]:
    """One line of a manifest as a checked row with all `KEYS`; see `check_row`.

    Args:
        line: UTF-8, with or without the line's end.
        where: file and line, for the message.

    Raises:
        RecordError: the line is not UTF-8, not JSON, or not a record.
    """
    try:
        row = json.loads(line.decode("utf-8"), object_pairs_hook=distinct_keys)
    except KeyError as error:
        raise RecordError(f"{where}: has the key {error} twice; remove one") from None
    except UnicodeDecodeError as error:
        raise RecordError(f"{where}: is not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise RecordError(f"{where}: is not JSON ({error.msg})") from None
    except (RecursionError, ValueError) as error:  # nested too deep, or a number of thousands of digits
        raise RecordError(f"{where}: is not JSON that can be read ({type(error).__name__})") from None
    if b"\\u" in line and isinstance(row, dict) and not _is_text({**row, "image": ""}):
        raise RecordError(f"{where}: holds half of a surrogate pair (\\ud800 to \\udfff), which is not text")
    return check_row(row, where)


def distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs of a JSON object as a dict; a hook of `json.loads`, which itself takes the last of equal keys.

    Raises:
        KeyError: one key twice.
    """
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise KeyError(next(key for key in keys if keys.count(key) > 1))
    return row


def check_row(row: Any, where: str) -> dict[str, Any]:
    """The row with every key of `KEYS` (None where unknown), if it is a record; own keys (`x_...`) are dropped.

    A text that says nothing (`records.blanks`) is None, and a turn with one is left out.

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
                f"{where}: {key!r} is not a key of a record; {hint}(keys of your own begin with 'x_')"
            )
    checked: dict[str, Any] = {}
    for key in KEYS:
        value = row.get(key)
        if value is not None and (wrong := problem(key, value)):
            raise RecordError(f"{where}: {wrong}")
        checked[key] = _plain(key, value)
    return checked


def _plain(key: str, value: Any) -> Any:
    """A good value as it is read."""
    if FIELDS[key].kind is Plain.TEXT:
        return text_or_none(value)
    if FIELDS[key].kind is Plain.TURNS and value is not None:
        return [turn for turn in value if not any(map(is_blank, turn.values()))]
    return int(value) if isinstance(value, float) else value  # JSON does not distinguish 3.0 from 3


def _is_text(row: Any) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def record_of(row: Mapping[str, Any], folder: Path) -> Record:
    """A checked row as a `Record`; the name of its image is relative to `folder`."""
    concepts = row["concepts"]
    values: dict[str, Any] = {
        key: row[key] for key in KEYS if key not in ("image", "class", "concepts", "turns", "rejected")
    }
    for key in ("turns", "rejected"):
        values[key] = tuple((turn["question"], turn["answer"]) for turn in row[key] or ())
    return Record(
        image_path=image_path(folder, row["image"]),
        class_name=row["class"],
        concepts=None if concepts is None else tuple(concepts),
        **values,
    )
