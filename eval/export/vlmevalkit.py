"""A run as VLMEvalKit's tables: the cases as a multiple-choice TSV, and each arm's predictions beside it.

`skin_cases.tsv` has the columns index, image (base64) and image_path, or image_path alone, question, hint, a letter
for each class of the run's task (A to O for the default's 15), answer (letter), category (class), l2-category (the
value of the task's first group column, by default the skin type) and split. `ARM_skin_cases.tsv` has the same without
pictures, and `prediction`: the letter of the class that the answer commits to, empty where it commits to none;
`prediction_scored`: that of the likeliest class; and `text`: the answer as it was written.
"""

from __future__ import annotations

import base64
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from data.preparing.metadata import without_metadata
from eval.asking.answers import ArmAnswers, Run, case_lines
from eval.measures.intervals import best_class, has_choice
from eval.tasks import Task
from skingpt4.records.archives import exists, read_bytes, split_path
from skingpt4.records.naming import hint, image_path, readable
from skingpt4.records.pixels.dicom import is_dicom
from skingpt4.support.errors import UserError
from skingpt4.support.files import write_text
from skingpt4.support.spreadsheets import csv_text
from skingpt4.taxonomy.taxonomy import class_title

NAME = "skin_cases"
QUESTION = "Which skin disease does this image show?"


class PictureError(UserError):
    """A case's picture that is not where it should be; the message says where it was looked for."""


class OptionsError(UserError):
    """A task whose classes are no options of VLMEvalKit; the message says why."""


def _letters(task: Task) -> dict[str, str]:
    """The letter of each class of the task.

    Raises:
        OptionsError: there is no class, or there are more than letters, which is all that VLMEvalKit reads.
    """
    if not 0 < len(task.classes) <= len(ascii_uppercase):
        raise OptionsError(
            f"the task {task.name} has {len(task.classes)} classes, and VLMEvalKit's multiple choice takes "
            f"1 to {len(ascii_uppercase)}; use --format lmms-eval"
        )
    return dict(zip(task.classes, ascii_uppercase, strict=False))


def _pictures(index: int, case: dict[str, Any], folder: Path, as_paths: bool) -> dict[str, str]:
    """The columns of a case's pictures; several are written as a list, which is how VLMEvalKit reads them.

    Beside base64 stand the names of the files that VLMEvalKit writes them to: it insists on them for a list.
    """
    pictures = []
    for name in case["images"]:
        path = image_path(folder, name)
        if not exists(path):
            raise PictureError(
                f"{path}: no such picture{hint(path)}; name the folder of the list of cases with --images"
            )
        pictures.append(
            _plain_path(path) if as_paths else base64.b64encode(_shareable(read_bytes(path))).decode()
        )
    columns = {"image_path": pictures} if as_paths else {"image": pictures}
    if not as_paths:
        columns["image_path"] = [f"{index}_{number}.jpg" for number in range(1, len(pictures) + 1)]
    return {key: each[0] if len(each) == 1 else repr(each) for key, each in columns.items()}


def _shareable(data: bytes) -> bytes:
    """A picture's file; of DICOM, which may name a person and which VLMEvalKit cannot read, the pixels as PNG."""
    return without_metadata(data)[0] if is_dicom(data) else data


def _plain_path(path: Path) -> str:
    """The absolute path, if another program can open it.

    Raises:
        PictureError: it is in an archive, or a table cannot hold its name.
    """
    name = str(path.resolve())
    if split_path(path)[1] or readable(name) != name:
        raise PictureError(
            f"{path}: is in an archive, or its name is no text, so VLMEvalKit cannot open it; leave out --image-paths"
        )
    return name


def _row(index: int, case: dict[str, Any], task: Task, letters: dict[str, str]) -> dict[str, Any]:
    groups = case.get("groups") or {"fitzpatrick": case.get("fitzpatrick")}
    return {
        "index": index,
        "question": task.question or QUESTION,
        "hint": case.get("history") or "",
        **{letter: class_title(name) if task.is_default else name for name, letter in letters.items()},
        "answer": letters[case["class"]],
        "category": case["class"],
        "l2-category": next(iter(groups.values())) or "unknown",
        "split": "test",
    }


def _table(rows: list[dict[str, Any]]) -> str:
    header = list(rows[0])
    return csv_text(header, ([row[key] for key in header] for row in rows), delimiter="\t")


def write(run: Run, out: Path, arms: list[ArmAnswers], images: Path, as_paths: bool = False) -> list[Path]:
    """Write the table of cases and one of predictions for each arm; returns the files.

    Raises:
        PictureError: a picture is missing; nothing is written.
        OptionsError: the run's task is no multiple choice; nothing is written.
    """
    cases, letters = list(run.cases.values()), _letters(run.task)
    rows = [_row(index, case, run.task, letters) for index, case in enumerate(cases)]
    tables = {
        NAME: [
            {**row, **_pictures(row["index"], case, images, as_paths)}
            for row, case in zip(rows, cases, strict=True)
        ]
    }
    for arm in arms:
        lines = {line["case_id"]: line for line in case_lines(run, arm)}
        tables[f"{arm.name}_{NAME}"] = [
            {
                **row,
                "prediction": letters.get(line.get("text_class") or "", ""),
                "prediction_scored": letters.get((best_class(line) if has_choice(line) else None) or "", ""),
                "text": next((turn["answer"] for turn in reversed(line["turns"])), ""),
            }
            for row, case in zip(rows, cases, strict=True)
            if (line := lines.get(case["id"]))
        ]
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, table in tables.items():
        if table:
            write_text(out / f"{name}.tsv", _table(table))
            written.append(out / f"{name}.tsv")
    return written
