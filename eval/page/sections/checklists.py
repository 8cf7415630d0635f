"""The TRIPOD-LLM and CLEAR Derm checklists, filled in from what a run shows; what only people can add is named."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from eval.asking.answers import Run, case_lines
from eval.page.parts import NOTHING, Cell, Heading, Part, Table, Text

FILE = Path(__file__).with_name("checklists.yaml")
SHOWN, PART, OPEN = "shown", "in part", "open"
HOW = (
    "Topics in our own words, filled in by the software from this run alone. “Shown” says where to look, "
    "not that a reviewer will be satisfied. For a submission fill in the guideline's own form."
)


@dataclass(frozen=True)
class Topic:
    """One topic of a guideline, and how far the run shows it."""

    topic: str
    state: str
    section: str | None
    to_do: str


@cache
def guidelines() -> list[dict[str, Any]]:
    """The guidelines with their topics, as `checklists.yaml` holds them."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))["guidelines"]


def facts(run: Run, results: dict[str, Any], num_losses: int) -> dict[str, bool]:
    """Which facts this run shows: name -> whether it does. Every name that a checklist needs is there.

    Args:
        run: its answers and cases.
        results: what `results.json` holds.
        num_losses: steps of training whose loss logs the run's folder holds.
    """
    metas = [arm.meta for arm in run.arms.values()]
    cases = list(run.cases.values())
    rated = results.get("ratings") or {}
    study = rated.get("study") or {}
    entries = (results.get("consistency") or {}).values()
    repeats = [entry["repeats"] for entry in entries if entry.get("repeats")]
    agreement = [item["agreement"] for items in rated.get("arms", {}).values() for item in items.values()]
    trained = [meta for meta in metas if meta.get("checkpoint")]

    def all_say(key: str, among: list[dict[str, Any]] = metas) -> bool:
        return bool(among) and all(meta.get(key) not in (None, "", [], {}) for meta in among)

    known = {
        "sources": all(case.get("source") for case in cases),
        "num_cases": bool(cases),
        "classes": all(case.get("class") for case in cases),
        "skin_types": all(case.get("fitzpatrick") not in (None, -1) for case in cases),
        # Runs of earlier versions do not say what could not be compared.
        "overlap_checked": bool(trained)
        and all(
            meta.get(key) == []
            for meta in trained
            for key in ("overlap_with_training", "overlap_not_compared")
        ),
        "complete": bool(run.arms)
        and all(len(case_lines(run, arm)) == len(cases) for arm in run.arms.values()),
        "training_logs": num_losses > 0,
        "checkpoint_sha256": all_say("checkpoint_sha256", trained),
        "seed": all(meta.get("seed") is not None for meta in metas),
        "versions": all(set(meta.get("hardware", {})) >= {"torch", "python"} for meta in metas),
        "text_outcomes": any((results.get("text_outcomes") or {}).values()),
        "raters": rated.get("raters", 0) > 0,
        "approval": bool(study.get("approvals")),
        "consent": 0 < study.get("num_raters", 0) == study.get("num_agreed"),
        "ratings_sha256": bool(results.get("provenance", {}).get("ratings", {}).get("ratings sha256")),
        "rater_agreement": any(agreement),
        "intervals": bool(results.get("arms")),
        "comparisons": bool(results.get("comparisons")),
        "consistency": any(not entry.get("trivial") for entry in repeats),
        "perturbations": any(entry.get("perturbations") for entry in entries),
        "hallucination": bool(rated.get("hallucination")),
        "calibration": any("calibration" in arm for arm in results.get("arms", {}).values()),
        "history": any(case.get("history") for case in cases) and all_say("with_history"),
        "confusion": bool(results.get("arms")),
    }
    same = ("cases_sha256", "language_model", "encoder", "prompts", "template", "decoding", "hardware",
            "git_revision", "taxonomy")  # fmt: skip
    return {**known, **{key: all_say(key) for key in same}}


def fill(guideline: dict[str, Any], known: dict[str, bool]) -> list[Topic]:
    """The topics of a guideline with their states.

    Raises:
        KeyError: the checklist needs a fact that `facts` does not know.
    """
    topics = []
    for item in guideline["topics"]:
        needs, to_do = item.get("needs", []), item.get("open", "")
        missing = [name.replace("_", " ") for name in needs if not known[name]]
        if missing:
            to_do = f"this run does not show: {', '.join(missing)}" + (f"; {to_do}" if to_do else "")
        state = OPEN if missing or not needs else PART if to_do else SHOWN
        topics.append(Topic(item["topic"], state, item.get("where") if state != OPEN else None, to_do))
    return topics


def checklists_parts(known: dict[str, bool], titles: dict[str, str]) -> list[Part]:
    """Both checklists as tables.

    Args:
        known: of `facts`.
        titles: section of the page -> its title, for the links.
    """
    parts: list[Part] = [Text(HOW)]
    for guideline in guidelines():
        topics = fill(guideline, known)
        counts = ", ".join(
            f"{sum(t.state == state for t in topics)} {state}" for state in (SHOWN, PART, OPEN)
        )
        rows = []
        for topic in topics:
            where = Cell(titles[topic.section], section=topic.section) if topic.section else NOTHING
            rows.append([topic.topic, topic.state, where, topic.to_do or NOTHING])
        parts += [
            Heading(guideline["name"]),
            Text(f"{guideline['reference']}. Of {len(topics)} topics: {counts}.", "soft"),
            Table(
                f"{guideline['name']}: what this run shows",
                ["topic", "state", "where", "still open"],
                rows,
                "words",
            ),
        ]
    return parts
