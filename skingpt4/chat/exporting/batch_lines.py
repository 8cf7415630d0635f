"""The lines of `skingpt4 batch` as consultations, one a picture."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skingpt4.chat.exporting.record import Consultation, ConsultationError, Exchange, ShownPicture
from skingpt4.support.files import now
from skingpt4.support.parse import parse_json, read_json_object
from skingpt4.support.regular import open_regular_text


def consultations(lines_path: Path) -> Iterator[Consultation]:
    """A consultation for each line with an answer; names of files stay behind.

    Args:
        lines_path: the output of `skingpt4 batch`, beside its `.meta.json`.

    Raises:
        ConsultationError: a line or the file beside it was not written by `skingpt4 batch`.
    """
    meta_path = lines_path.with_name(f"{lines_path.name}.meta.json")
    try:
        meta = read_json_object(meta_path)
        model, created = dict(meta["model"]), now()
    except (OSError, ValueError, KeyError, TypeError):
        raise ConsultationError(
            f"{meta_path}: is not there or not readable; it belongs to what `skingpt4 batch` wrote"
        ) from None
    with open_regular_text(lines_path) as file:
        for number, text in enumerate(file, 1):
            try:
                line = dict(parse_json(text))
                if "error" not in line:
                    yield _consultation(line, model, meta, created)
            except (KeyError, TypeError, ValueError, AttributeError):
                raise ConsultationError(
                    f"{lines_path}, line {number}: was not written by `skingpt4 batch`"
                ) from None


def _consultation(
    line: dict[str, Any], model: dict[str, Any], meta: dict[str, Any], created: str
) -> Consultation:
    picture = ShownPicture(
        str(line["sha256"]), 0, 0, quality=line["quality"], remarks=list(line.get("remarks", []))
    )
    turns = line.get("turns") or [
        {"question": question, "answer": line["text"]} for question in meta["questions"] if "text" in line
    ]
    same = f"{line['sha256']}/{model.get('sha256')}/{line.get('text')}"
    return Consultation(
        model=model,
        id=hashlib.sha256(same.encode("utf-8", "surrogatepass")).hexdigest()[:16],
        created=created,
        pictures=[picture],
        turns=[Exchange(turn["question"], turn["answer"], generation=meta["generation"]) for turn in turns],
        differential={
            "ranked": [
                {"class_name": name, "disease": "", "probability": value}
                for name, value in line["probabilities"].items()
            ],
            "concepts": _named(line["concepts"]),
            "diseases": _named(line.get("diseases", {})),
            "confident": line["confident"],
            "threshold": None,
            "calibration": line["calibration"],
            "red_flags": [],
            "next_steps": [],
        },
    )


def _named(probabilities: dict[str, float]) -> list[dict[str, Any]]:
    return [{"name": name, "probability": value} for name, value in probabilities.items()]
