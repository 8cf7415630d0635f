"""Arms of several runs side by side: only those that answered the same cases of the same task stand in one table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.asking.answers import CASES, ArmAnswers, Run, kind_of, read_run
from eval.measures.comparing.arms import compare_pair, correct
from eval.measures.intervals import Line, arm_summary
from eval.measures.results import HEADLINE, ReportError, run_lines
from skingpt4.support.files import file_sha256


@dataclass(frozen=True)
class Entry:
    """One arm of one run.

    `measures` are those of `eval.measures.results.HEADLINE` that the arm has; `against_best` compares it with the
    first entry of its table: measure -> figure with `p` and `p_holm`.
    """

    run: str
    arm: str
    meta: dict[str, Any]
    lines: Sequence[Line]
    measures: dict[str, Any]
    against_best: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The kind of the arm."""
        return kind_of(self.meta)

    @property
    def name(self) -> str:
        """Run and arm."""
        return f"{self.run}: {self.arm}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without the answers."""
        return {
            "run": self.run, "arm": self.arm, "kind": self.kind,
            "model": self.meta.get("model") or self.meta.get("language_model"),
            "version": self.meta.get("checkpoint_sha256") or self.meta.get("revision") or self.meta.get("sha256"),
            "closed_set": self.meta.get("closed_set"),
            **{name: self.measures.get(name) for name in HEADLINE},
            "against_best": self.against_best,
        }  # fmt: skip


@dataclass(frozen=True)
class Table:
    """What can be compared: the same cases, the same task. The best entry comes first."""

    task: str
    task_sha256: str
    cases_sha256: str
    num_cases: int
    entries: list[Entry]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "task": self.task, "task_sha256": self.task_sha256, "cases_sha256": self.cases_sha256,
            "num_cases": self.num_cases, "entries": [entry.to_dict() for entry in self.entries],
        }  # fmt: skip


def compare_runs(folders: Sequence[Path], measure: str = "top1") -> list[Table]:
    """Tables of all arms of these runs, the largest first; in each the arms by `measure`, those without it last.

    Raises:
        AnswersError, ReportError, TaskError: a folder holds no run, is named twice, or its answers cannot be used.
    """
    resolved = [folder.resolve() for folder in folders]
    for folder in resolved:
        if resolved.count(folder) > 1:
            raise ReportError(f"{folder}: is named twice; name each run once")
    names = _names(resolved)
    tables: dict[tuple[str, str, str], list[Entry]] = {}
    sizes: dict[tuple[str, str, str], int] = {}
    for name, folder in zip(names, folders, strict=True):
        run = read_run(folder)
        for arm, lines in run_lines(run).items():
            key = _key(run, run.arms[arm])
            tables.setdefault(key, []).append(Entry(name, arm, run.arms[arm].meta, lines, _measures(lines)))
            sizes[key] = len(run.cases)
    made = [
        Table(task, task_sha256, cases, sizes[task, task_sha256, cases], _ranked(entries, measure))
        for (task, task_sha256, cases), entries in tables.items()
    ]
    return sorted(made, key=lambda table: -len(table.entries))


def _names(folders: Iterable[Path]) -> list[str]:
    """The folders' own names, with as many parents as it takes to tell them apart."""
    folders = list(folders)
    for number in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-number:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


def _key(run: Run, arm: ArmAnswers) -> tuple[str, str, str]:
    """(task, its hash, the hash of the list of cases)."""
    cases = arm.meta.get("cases_sha256") or file_sha256(run.folder / CASES)
    return run.task.name, run.task.sha256, str(cases)


def _measures(lines: Sequence[Line]) -> dict[str, Any]:
    return dict(arm_summary(lines))


def _ranked(entries: list[Entry], measure: str) -> list[Entry]:
    """Best first, each compared with the first by case; p is corrected for the number of these comparisons."""
    ranked = sorted(entries, key=lambda e: -e.measures[measure]["value"] if measure in e.measures else 1.0)
    best = ranked[0]
    ids = {line["case_id"] for line in best.lines}
    pairs = {
        str(place): compare_pair(best.lines, entry.lines)
        for place, entry in enumerate(ranked[1:], 1)
        if ids & {line["case_id"] for line in entry.lines}
    }
    correct(pairs)
    return [
        Entry(e.run, e.arm, e.meta, e.lines, e.measures, pairs.get(str(place), {}))
        for place, e in enumerate(ranked)
    ]
