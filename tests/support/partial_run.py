"""Arms that lack texts or scores, added to a copy of the small run folder of an earlier version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from eval.asking.answers import Answer, Key, to_line
from skingpt4.taxonomy.taxonomy import CLASSES

OLD = Path(__file__).parents[1] / "eval" / "old_run"


def copy_old(folder: Path) -> Path:
    """A folder of an earlier version: two arms, 6 cases, two repeats; without its results."""
    shutil.copytree(OLD, folder)
    (folder / "results.json").unlink()
    return folder


def cases(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "cases.jsonl").read_text(encoding="utf-8").splitlines()]


def add_arm(run: Path, name: str, meta: dict[str, Any], lines: list[Answer]) -> None:
    (run / "answers" / f"{name}.meta.json").write_text(json.dumps({"arm": name, **meta}), encoding="utf-8")
    (run / "answers" / f"{name}.jsonl").write_text("".join(map(to_line, lines)), encoding="utf-8")


def scores(run: Path, name: str, meta: dict[str, Any] | None = None, num_right: int = 4) -> None:
    """An arm that scores classes and writes nothing; the first `num_right` of 6 cases are right."""
    lines = []
    for place, case in enumerate(cases(run)):
        best = case["class"] if place < num_right else next(c for c in CLASSES if c != case["class"])
        fields = {"class_scores": {c: float(c == best) for c in CLASSES}, "concept_scores": None}
        lines.append(Answer(name, Key(case["id"], 0, None, "scores"), fields))
    card = {"kind": "probe", "prompts": [], "probes": [], "scores": True, "cases_sha256": "cd" * 32}
    add_arm(run, name, card | (meta or {}), lines)


def texts(
    run: Path, name: str, meta: dict[str, Any] | None = None, num_right: int = 3, num_answered: int = 6
) -> None:
    """An arm that answers the first prompt in words, in half a minute, and scores nothing."""
    lines = []
    for place, case in enumerate(cases(run)[:num_answered]):
        fields = {
            "prompt": "Could you describe it?", "answer": "Some words.", "num_tokens": None, "seconds": 30.0,
            "text_class": case["class"] if place < num_right else None,
            "text_outcome": "asserted" if place < num_right else "no_class",
        }  # fmt: skip
        lines.append(Answer(name, Key(case["id"], 0, None, "turn", 1), fields))
    card = {"kind": "import", "prompts": ["Could you describe it?"], "probes": [], "scores": False}
    add_arm(run, name, card | {"cases_sha256": "cd" * 32} | (meta or {}), lines)


def listed(run: Path, name: str, num_right: int = 4) -> None:
    """An arm that chooses from a list of the classes; where it is wrong it names none of them, or several."""
    lines = []
    for place, case in enumerate(cases(run)):
        chosen = case["class"] if place < num_right else None
        fields = {"question": "Which of these?", "answer": "...", "listed_class": chosen}
        lines.append(Answer(name, Key(case["id"], 0, None, "probe", 1), fields))
    card = {"kind": "endpoint", "prompts": [], "probes": ["?"], "scores": False, "cases_sha256": "cd" * 32}
    add_arm(run, name, card, lines)
