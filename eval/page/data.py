"""What a report is made of: a run that was read and measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.asking.answers import Run, kind_of
from eval.measures.intervals import Line
from eval.rating.ratings import Rating


@dataclass(frozen=True)
class Report:
    """All that the report shows; `phantoms` says whether "all", "some" or "none" of the pictures are rendered."""

    name: str
    arms: dict[str, list[Line]]
    results: dict[str, Any]
    losses: dict[str, list[dict[str, Any]]]
    image_dir: Path
    phantoms: str
    notes: list[str]
    answers: Run
    ratings: list[Rating]
    printed: dict[str, Any]
    chosen: tuple[str, ...] = ()  # ids of the cases to be shown; none: by rule
    with_pictures: bool = True
    groups: dict[str, list[str]] = field(default_factory=dict)  # trainings of one recipe, of `--group`

    def leading(self, key: str = "case_id") -> tuple[str, list[Line]] | None:
        """The first arm that has something, and its lines with it: two_step where it does, for it comes first."""
        for name, lines in self.arms.items():
            having = [line for line in lines if key in line]
            if having:
                return name, having
        return None

    def meta(self, arm: str) -> dict[str, Any]:
        """What an arm's meta file holds."""
        return self.answers.arms[arm].meta

    def kind(self, arm: str) -> str:
        """The kind of an arm: "projection", "endpoint", "import", ..."""
        return kind_of(self.meta(arm))

    def units(self) -> dict[str, dict[str, Any]]:
        """What stands for one system: a group of trainings, or an arm outside one; name -> its headline measures."""
        measured = self.results.get("trainings", {}).get("groups", {})
        inside = {arm: name for name, arms in self.groups.items() for arm in arms}
        units: dict[str, dict[str, Any]] = {}
        for arm, summary in self.results["arms"].items():
            name = inside.get(arm, arm)
            units.setdefault(name, measured.get(name, summary))
        return units

    def pairs(self) -> dict[str, dict[str, Any]]:
        """Every pair of units, FIRST_minus_SECOND: measure: figure with `p` and `p_holm`."""
        if not self.groups:
            return self.results["pairs"]
        return self.results["trainings"]["pairs"]
