"""Files of a run's folder beside its answers, read with errors that name file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skingpt4.errors import UserError


class ReportError(UserError):
    """Something about the run folder that its owner can mend; the message says what and where."""


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; blank lines are skipped.

    Raises:
        ReportError: when the file is missing or a line is no JSON object, named by file and line number.
    """
    if not path.is_file():
        raise ReportError(f"{path}: no such file")
    rows = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise ReportError(f"{path}:{number}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise ReportError(f"{path}:{number}: expected an object, found {type(row).__name__}")
        # Kept for the messages of later checks; no field of the file can have this name by accident.
        rows.append({**row, "__line__": number})
    return rows


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is no such file."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ReportError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(data, dict):
        raise ReportError(f"{path}: expected an object, found {type(data).__name__}")
    return data


def load_losses(run_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """The logged losses of both steps, of those that have a log.

    Raises:
        ReportError: a line is damaged.
    """
    logs = {}
    for step in ("step1", "step2"):
        path = run_dir / step / "metrics.jsonl"
        if not path.is_file():
            continue
        rows = [row for row in read_jsonl(path) if row.get("kind") in ("train", "validation")]
        for row in rows:
            for key in ("iteration", "loss"):
                if not isinstance(row.get(key), int | float):
                    raise ReportError(f"{path}:{row['__line__']}: {key!r} is missing or not a number")
        if rows:
            logs[step] = rows
    return logs
