"""Pairs of answers of which raters preferred one, as records for training (step: dpo)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from eval.asking.answers import ArmAnswers, Run
from eval.asking.cases import Case
from eval.rating.questionnaire import ITEMS, UNKNOWN
from eval.rating.ratings import Rating, RatingsError, read_ratings
from skingpt4.records.blanks import is_blank
from skingpt4.records.naming import name_of


@dataclass
class Made:
    """The rows of a manifest, and what they were made of."""

    rows: list[dict[str, Any]]
    num_cases: int
    num_raters: int
    left_out: Counter[str] = field(default_factory=Counter)


def ratings_of(path: Path, role: str | None, items: Sequence[str] | None) -> list[Rating]:
    """The ratings that count: of one role and of these items.

    Raises:
        RatingsError: no such item or role, or several roles and none is named: they are never pooled.
    """
    if unknown := [item for item in items or () if item not in ITEMS]:
        raise RatingsError(f"--item {unknown[0]}: is not an item with points; there are {', '.join(ITEMS)}")
    ratings = [r for r in read_ratings(path) if r.item in (items or ITEMS)]
    roles = list(dict.fromkeys(r.role or UNKNOWN for r in ratings))
    if (role and role not in roles) or (role is None and len(roles) > 1):
        what = f"has no ratings of role {role!r}" if role else "holds ratings of several roles"
        raise RatingsError(f"{path}: {what}; name one with --role: {', '.join(roles) or 'there is none'}")
    return [r for r in ratings if role in (None, r.role or UNKNOWN)]


def differences(ratings: Sequence[Rating]) -> dict[tuple[str, str, str], tuple[float, int]]:
    """For each case and two of its arms: by how many points the first was rated better, and by how many raters.

    A rater counts who rated both arms, with the mean of the items that they answered for both; raters count alike.

    Returns:
        (case, arm, other arm), arms in alphabetical order, to (mean difference in points, number of raters).
    """
    points: dict[tuple[str, str], dict[str, dict[str, int]]] = {}  # (case, rater): arm: item: points
    for r in ratings:
        points.setdefault((r.case_id, r.rater), {}).setdefault(r.arm, {})[r.item] = r.number
    found: dict[tuple[str, str, str], list[float]] = {}
    for (case, _), by_arm in points.items():
        for arm, other in combinations(sorted(by_arm), 2):
            common = by_arm[arm].keys() & by_arm[other].keys()
            if common:
                mean = fmean(by_arm[arm][item] - by_arm[other][item] for item in sorted(common))
                found.setdefault((case, arm, other), []).append(mean)
    return {key: (fmean(values), len(values)) for key, values in found.items()}


def preferences(
    run: Run, cases: Sequence[Case], ratings: Sequence[Rating], min_difference: float, folder: Path
) -> Made:
    """Records with `turns`, rated better, and `rejected`, rated worse, of one case and picture.

    Args:
        run: whose answers were rated.
        cases: its list, for the pictures.
        ratings: that count, see `ratings_of`.
        min_difference: in points; a pair that is nearer is left out.
        folder: of the manifest, which names of pictures are relative to.

    Raises:
        RatingsError: a rated arm or case is not in the run, or nothing is left.
    """
    answered = {name: _conversations(arm) for name, arm in run.arms.items()}
    known = {case.id: case for case in cases}
    made = Made([], 0, len({r.rater for r in ratings}))
    for (case_id, arm, other), (difference, num_raters) in sorted(differences(ratings).items()):
        _require(case_id, (arm, other), run, known)
        better, worse = (arm, other) if difference > 0 else (other, arm)
        turns, rejected = (answered[name].get(case_id, []) for name in (better, worse))
        case = known[case_id]
        if reason := _unusable(case, turns, rejected, abs(difference), min_difference):
            made.left_out[reason] += 1
            continue
        record = case.known
        row: dict[str, Any] = {
            "image": name_of(record.image_path.absolute(), folder.absolute()),
            "case_id": case_id,
        }
        row |= {"sha256": record.sha256, "class": record.class_name, "patient_id": record.patient_id}
        row |= {"source": record.source, "turns": turns, "rejected": rejected}
        row |= {"x_preferred_arm": better, "x_rejected_arm": worse}
        made.rows.append(row | {"x_points": round(abs(difference), 4), "x_raters": num_raters})
    if not made.rows:
        why = "; ".join(f"{reason}: {count}" for reason, count in made.left_out.items())
        raise RatingsError(
            f"no pair is left ({why or 'no rater rated two arms of one case'}); rate more than one arm of each case"
        )
    made.num_cases = len({row["case_id"] for row in made.rows})
    return made


def _require(case_id: str, arms: tuple[str, str], run: Run, known: dict[str, Case]) -> None:
    for arm in arms:
        if arm not in run.arms:
            raise RatingsError(f"the rated arm {arm!r} is not in {run.folder}; it has {', '.join(run.arms)}")
    if case_id not in known or case_id not in run.cases:
        raise RatingsError(
            f"the rated case {case_id!r} is not in {run.folder} and --cases; name the run's own list"
        )


def _conversations(arm: ArmAnswers) -> dict[str, list[dict[str, str]]]:
    """The turns of each case, as a record has them, where all prompts are answered."""
    found: dict[str, list[dict[str, str]]] = {}
    for answer in sorted(arm.of("turn"), key=lambda answer: answer.key.number):
        turn = {"question": str(answer.fields["prompt"]), "answer": answer.text}
        found.setdefault(answer.key.case_id, []).append(turn)
    return {case: turns for case, turns in found.items() if len(turns) == len(arm.meta.get("prompts", ()))}


def _unusable(
    case: Case, turns: list[dict[str, str]], rejected: list[dict[str, str]], difference: float, needed: float
) -> str | None:
    """Why a pair teaches no preference, in words for a count; None if it does."""
    if difference < needed or not difference:
        return "rated too much alike (--min-difference)"
    if len(case.records) > 1:
        return "cases of several pictures"
    if not turns or not rejected:
        return "an arm without a complete conversation"
    if [turn["question"] for turn in turns] != [turn["question"] for turn in rejected]:
        return "arms that were asked different questions"
    if any(is_blank(text) for turn in (*turns, *rejected) for text in turn.values()):
        return "an answer that says nothing"
    return "equal answers" if turns == rejected else None
