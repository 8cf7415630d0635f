"""Who may write into a run's folder: one list of cases for all arms, and one way of asking for each arm."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval.asking import answers
from eval.asking.cases import Case
from eval.tasks import Task, write_task
from skingpt4.records.naming import name_of
from skingpt4.support.errors import UserError, reason_of
from skingpt4.support.files import drop_truncated_line, file_sha256, write_text
from skingpt4.support.parse import ParseError, read_json_object
from skingpt4.training.resuming.run_folder import locked


class ArmError(UserError):
    """An arm or case list that cannot be used; the message says why."""


def check_folder(folder: Path, arms: Sequence[str], cases: Path, replace_old: bool) -> list[str]:
    """Refuse a run's folder with answers about another list of cases: its one `cases.jsonl` holds for all arms.

    Returns:
        Other arms than `arms` whose answers are about another list and may be deleted; `claim` checks `arms`.

    Raises:
        ArmError: such answers exist, and `replace_old` is not set.
    """
    own, stale = file_sha256(cases), []
    for path in sorted((folder / answers.FOLDER).glob("*.meta.json")):
        if _saved_meta(path).get("cases_sha256") == own:
            continue
        if not replace_old:
            raise ArmError(
                f"{path}: the existing answers are about another list of cases than {cases}; name another "
                "--run-dir, or add --replace to delete them"
            )
        stale.append(path.name.removesuffix(".meta.json"))
    return [name for name in stale if name not in arms]


def _saved_meta(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except (OSError, ParseError) as error:
        raise ArmError(f"{path}: is damaged ({reason_of(error)}); name another --run-dir") from None


def forget(folder: Path, arm: str) -> None:
    """Delete an arm's answers and its meta file."""
    for file in answers.arm_files(folder, arm):
        file.unlink()
    (folder / answers.FOLDER / f"{arm}.meta.json").unlink()


def claim(folder: Path, arm: str, meta: dict[str, Any], extra: dict[str, Any], replace_old: bool) -> None:
    """Write the arm's meta file, or accept the existing one.

    Raises:
        ArmError: answers of another checkpoint, case list or setting exist, and `replace_old` is not set.
    """
    path = folder / answers.FOLDER / f"{arm}.meta.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        before = _saved_meta(path)
        differing = [key for key, value in meta.items() if before.get(key) != value]
        if not differing:
            for file in answers.arm_files(folder, arm):
                drop_truncated_line(file)
            extra = {"perturbations": sorted({*before.get("perturbations", []), *extra["perturbations"]})} | {
                "repeats": max(before.get("repeats", 1), extra["repeats"])
            }
            write_text(path, json.dumps({**before, **extra}, indent=1) + "\n")
            return
        if not replace_old and any(file.stat().st_size for file in answers.arm_files(folder, arm)):
            raise ArmError(
                f"{path}: the existing answers were made with other settings ({', '.join(differing)} differ); name "
                "another --run-dir, or add --replace to delete them"
            )
    for file in answers.arm_files(folder, arm):
        file.unlink()
    write_text(path, json.dumps({**meta, **extra}, indent=1) + "\n")


def add_to_meta(folder: Path, arm: str, facts: dict[str, Any]) -> None:
    """Put facts into an arm's meta file, in place of those of the same names."""
    path = folder / answers.FOLDER / f"{arm}.meta.json"
    write_text(path, json.dumps({**_saved_meta(path), **facts}, indent=1) + "\n")


def write_cases(cases: Sequence[Case], cases_path: Path, run_dir: Path) -> None:
    """Write what a report needs of the cases; pictures are named as in the list of cases."""
    folder, lines = cases_path.parent, list[str]()
    clusters: dict[str, int] = {}  # numbers, because a patient's id belongs into the manifest alone
    for case in cases:
        known = case.known
        row = {
            "id": case.id,
            "images": [name_of(record.image_path, folder) for record in case.records],
            "sha256": [record.sha256 for record in case.records],
            "class": case.label,
            "disease": known.disease,
            "concepts": None if known.concepts is None else list(known.concepts),
            "fitzpatrick": known.fitzpatrick,
            "source": known.source,
            "history": case.history,
            "reference": list(case.reference),
        }
        if case.urgency:
            row["urgency"] = case.urgency
        if case.facts:
            row |= {
                **case.facts,
                "cluster": clusters.setdefault(case.facts["cluster"] or f"\0{case.id}", len(clusters)),
            }
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_text(run_dir / answers.CASES, "".join(lines))


@contextmanager
def claimed(
    run_dir: Path,
    arm: str,
    cases: Sequence[Case],
    cases_path: Path,
    task: Task,
    meta: dict[str, Any],
    extra: dict[str, Any],
    replace_old: bool,
) -> Iterator[None]:
    """A run's folder for one arm: locked, with the arm's meta file, the cases and the task.

    Raises:
        ArmError: the folder holds other answers, and `replace_old` is not set.
        RunDirError: another run is in progress in the folder, or it cannot be written.
    """
    with locked(run_dir):
        for stale in check_folder(run_dir, [arm], cases_path, replace_old):
            forget(run_dir, stale)
        claim(run_dir, arm, meta, extra, replace_old)
        write_cases(cases, cases_path, run_dir)
        write_task(run_dir, task)
        yield
