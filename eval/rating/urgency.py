"""Triage: how soon somebody should be seen, by raters before and after a text, against a reference."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.asking.urgency import URGENCY
from eval.measures.agreement import statistic_interval, weighted_kappa
from eval.rating.questionnaire import DERMATOLOGIST, OWN_URGENCY, UNKNOWN, URGENCY_ITEM
from eval.rating.ratings import Rating

LISTED, MAJORITY = "x_urgency of the cases", "majority of the dermatologists before the text"
RESAMPLES = 2000


def majority(ratings: Sequence[Rating]) -> tuple[dict[str, str], int]:
    """Each case's most frequent urgency among dermatologists before the text; of a tie the more urgent one.

    Returns:
        Urgency by case, and the number of ties.
    """
    votes: dict[str, Counter[str]] = {}
    for rating in ratings:
        if rating.item == OWN_URGENCY and rating.role == DERMATOLOGIST:
            votes.setdefault(rating.case_id, Counter())[rating.value] += 1
    most = {case: max(counts.values()) for case, counts in votes.items()}
    ties = sum(list(counts.values()).count(most[case]) > 1 for case, counts in votes.items())
    chosen = {
        case: max((value for value, n in counts.items() if n == most[case]), key=URGENCY.index)
        for case, counts in votes.items()
    }
    return chosen, ties


def against_reference(
    ratings: Sequence[Rating], reference: Mapping[str, str], resamples: int = RESAMPLES
) -> dict[str, Any] | None:
    """Ratings of one urgency item against the reference.

    Args:
        ratings: of one item, of raters of one kind.
        reference: urgency by case.
        resamples: draws of the cases, each with all its ratings.

    Returns:
        `kappa`: mean of the raters' quadratic-weighted kappas with the reference; `exact`, `less_urgent` and
        `more_urgent`: shares of the ratings; each with a 95 % bootstrap interval over cases and `n` cases. `counts`:
        rows are the reference, columns the ratings, in the order of URGENCY. `num_ratings`, `raters`. None without a
        rating of a case of the reference.
    """
    known = [rating for rating in ratings if rating.case_id in reference]
    if not known:
        return None
    cases = {name: place for place, name in enumerate(dict.fromkeys(r.case_id for r in known))}
    raters = {name: place for place, name in enumerate(dict.fromkeys(r.rater for r in known))}
    table = np.full((len(cases), len(raters) + 1), np.nan)  # the reference is the last column
    for rating in known:
        table[cases[rating.case_id], raters[rating.rater]] = rating.number
    table[:, -1] = [URGENCY.index(reference[case]) for case in cases]
    difference = table[:, :-1] - table[:, -1:]
    blank = np.isnan(difference)
    counts = np.zeros((len(URGENCY), len(URGENCY)), int)
    rows, columns = np.nonzero(~blank)
    np.add.at(counts, (table[rows, -1].astype(int), table[rows, columns].astype(int)), 1)
    shares = {
        name: np.where(blank, np.nan, kind)
        for name, kind in (
            ("exact", difference == 0),
            ("less_urgent", difference < 0),
            ("more_urgent", difference > 0),
        )
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # draws in which all ratings are one
        kappa = statistic_interval(table, _kappa, resamples=resamples)
        figures = {
            name: statistic_interval(share, lambda drawn: float(np.nanmean(drawn)), resamples=resamples)
            for name, share in shares.items()
        }
    return {
        "kappa": kappa.to_dict(),
        **{name: figure.to_dict() for name, figure in figures.items()},
        "counts": counts.tolist(),
        "num_ratings": len(known),
        "raters": len(raters),
    }


def _kappa(table: np.ndarray) -> float:
    """Mean over raters of the kappa with the last column; NaN where none is defined."""
    kappas = [weighted_kappa(table[:, [rater, -1]]) for rater in range(table.shape[1] - 1)]
    return float(np.nanmean(kappas))


def urgency_summary(
    ratings: Sequence[Rating], listed: Mapping[str, str], resamples: int = RESAMPLES
) -> dict[str, Any]:
    """All that raters' urgencies say.

    Args:
        ratings: of all items.
        listed: urgency by case, where the list of cases has it; otherwise dermatologists are the reference.
        resamples: draws of the cases.

    Returns:
        Empty without ratings of urgency or without a reference. Else `reference` (what it is), `num_cases`, `ties`,
        `own` {role: against_reference} before the text (not of dermatologists who are the reference themselves), and
        `arms` {arm: {role: against_reference}} after it.
    """
    reference, ties = (dict(listed), 0) if listed else majority(ratings)
    roles = sorted({rating.role or UNKNOWN for rating in ratings})

    def measured(item: str, role: str, arm: str | None = None) -> dict[str, Any] | None:
        chosen = [r for r in ratings if (r.item, r.role or UNKNOWN) == (item, role) and arm in (None, r.arm)]
        return against_reference(chosen, reference, resamples)

    own = {
        role: figures
        for role in roles
        if (listed or role != DERMATOLOGIST) and (figures := measured(OWN_URGENCY, role))
    }
    arms: dict[str, dict[str, Any]] = {}
    for arm in dict.fromkeys(rating.arm for rating in ratings if rating.item == URGENCY_ITEM):
        by_role = {role: f for role in roles if (f := measured(URGENCY_ITEM, role, arm))}
        if by_role:
            arms[arm] = by_role
    if not (own or arms):
        return {}
    return {
        "reference": LISTED if listed else MAJORITY,
        "num_cases": len(reference),
        "ties": ties,
        "own": own,
        "arms": arms,
    }
