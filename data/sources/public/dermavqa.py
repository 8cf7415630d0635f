"""DermaVQA (MEDIQA-M3G): encounters of a question, several pictures and several doctors' responses."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.reading.fields import Row, treat_phi
from data.reading.rows import Candidate, Refusal, RowError, Rows, SourceError
from data.reading.tables import DiskMap
from data.sources.arguments import add_images_argument, add_phi_argument
from data.sources.public.pictures import CaseFields, Pictures, candidates_of_case
from skingpt4.support.errors import reason_of
from skingpt4.support.parse import ParseError, parse_json
from skingpt4.support.regular import read_regular_text

HELP = "DermaVQA: encounters with several pictures and several responses"
EPILOG = """FILE is a JSON list of encounters; DIR holds their pictures, also in its folders (images_train/, ...).
All pictures of an encounter share its id as `case_id`; the question becomes x_history, the responses x_references.
Step 2 teaches them as a dialogue: the question with the response that holds the frequent answer and is most complete.

You download the encounters and folders of pictures of MEDIQA-M3G 2024 and accept DermaVQA's terms.

  python -m data.prepare dermavqa downloads/dermavqa/test.json --split test
  python -m eval.cases sample runs/data/dermavqa/all.jsonl --task dermavqa --all --out cases.jsonl"""

LANGUAGES = ("en", "zh", "es")
LICENCE = "DermaVQA (MEDIQA-M3G 2024); see its terms"


@dataclass(frozen=True)
class Options:
    """The list of encounters, the folder of the pictures and the language; see `add_arguments`."""

    file: Path
    images: Path | None = None
    language: str = "en"
    split: str | None = None
    phi: str = "refuse"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The list, where its pictures are, and the language that is read."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a JSON list of encounters")
    add_images_argument(parser, "FILE's folder")
    parser.add_argument("--language", choices=LANGUAGES, default="en", help="of question and responses")
    parser.add_argument("--split", metavar="NAME", help="the part of the data set that it is, such as test")
    add_phi_argument(parser, "encounters")


def read(options: Options) -> Rows:
    """Check the file and the folder, then return a row for every picture.

    Raises:
        SourceError: the file is not a list of encounters, or the folder is missing.
    """
    try:
        encounters = parse_json(read_regular_text(options.file))
    except FileNotFoundError:
        raise SourceError(f"{options.file}: no such file") from None
    except (OSError, UnicodeDecodeError, ParseError) as error:
        raise SourceError(f"{options.file}: is not JSON that can be read ({reason_of(error)})") from None
    if not isinstance(encounters, list) or not all(isinstance(each, dict) for each in encounters):
        raise SourceError(
            f"{options.file}: expected a JSON list of encounters, each with encounter_id and image_ids"
        )
    pictures = Pictures(options.images or options.file.parent, "the pictures of DermaVQA")
    blanks: Counter[str] = Counter()
    total = sum(max(1, len(_names(each))) for each in encounters)
    return Rows(_rows(encounters, pictures, options, blanks), total, blanks)


def _names(encounter: dict[str, Any]) -> list[str]:
    names = encounter.get("image_ids")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _rows(
    encounters: list[dict[str, Any]], pictures: Pictures, options: Options, blanks: Counter[str]
) -> Iterator[Candidate | Refusal]:
    seen = DiskMap()
    for number, encounter in enumerate(encounters, 1):
        names = _names(encounter)

        def read(encounter: Any = encounter, names: Any = names) -> CaseFields:
            fields = _case(Row(encounter, blanks), options)
            if not names:
                raise RowError("bad_row", "names no picture")
            if not seen.add(fields["case_id"]):
                raise RowError("listed_twice", f"the encounter {fields['case_id']!r} is in an earlier row")
            return fields, treat_phi(fields, options.phi)

        yield from candidates_of_case(str(options.file), number, names, pictures, read)


def _case(row: Row, options: Options) -> dict[str, Any]:
    case_id = row.identifier("encounter_id")
    if case_id is None:
        raise RowError("bad_row", "has no encounter_id")
    question = [row.text(f"query_{part}_{options.language}") for part in ("title", "content")]
    responses = row.values.get("responses") or []
    if not isinstance(responses, list) or not all(isinstance(each, dict) for each in responses):
        raise RowError("bad_value", "'responses' is not a list of objects")
    texts = {text: each for each in responses if (text := Row(each).text(f"content_{options.language}"))}
    if responses and not texts:
        raise RowError("no_label", f"has no response in the language {options.language}")
    asked = " ".join(dict.fromkeys(part for part in question if part))
    best = max(texts, key=lambda text: _rank(texts[text]), default=None)
    return {
        "source": "dermavqa",
        "licence": LICENCE,
        "case_id": case_id,
        "split": options.split,
        "turns": [{"question": asked, "answer": best}] if asked and best else None,
        "note": best if not asked else None,
        "x_history": asked or None,
        "x_references": list(texts) or None,
    }


def _rank(response: dict[str, Any]) -> tuple[float, float]:
    """How good a response is by MEDIQA-M3G's own marks: whether it holds the frequent answer, how complete it is."""
    frequent, complete = (_mark(response.get(key)) for key in ("contains_freq_ans", "completeness"))
    return frequent, complete


def _mark(value: Any) -> float:
    """A mark as a number; 0 for what can be none."""
    try:
        mark = float(value) if isinstance(value, int | float) else 0.0
    except OverflowError:  # an integer of hundreds of digits
        return 0.0
    return mark if math.isfinite(mark) else 0.0
