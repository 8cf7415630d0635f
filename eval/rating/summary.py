"""What people's ratings say: shares that agree, raters' agreement, arms against each other, roles apart, triage.

Pure functions from ratings to plain data; every figure as {"value", "low", "high", "n"}. A case is drawn with all its
ratings, because the ratings of one case are not independent.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.formula.api import mixedlm

from eval.measures.agreement import (
    gwet_ac2,
    icc_interval,
    krippendorff_ordinal,
    statistic_interval,
    weighted_kappa,
)
from eval.measures.comparing.arms import holm
from eval.measures.intervals import Figure, Interval
from eval.rating.questionnaire import AGREE, FLAG, ITEMS, ROLES, SCALE, UNKNOWN
from eval.rating.ratings import Rating
from eval.rating.urgency import urgency_summary

RESAMPLES, COEFFICIENT_RESAMPLES = 2000, 200
COEFFICIENTS = {
    "quadratic-weighted kappa": weighted_kappa,
    "Krippendorff's alpha, ordinal": krippendorff_ordinal,
    "Gwet's AC2": gwet_ac2,
}
ICC = "ICC(2,k)"


def rating_table(
    ratings: Iterable[Rating], arm: str, item: str, cases: Sequence[str], raters: Sequence[str]
) -> np.ndarray:
    """One item of one arm: (cases, raters), NaN where a rater has not rated a case."""
    rows = {name: place for place, name in enumerate(cases)}
    columns = {name: place for place, name in enumerate(raters)}
    table = np.full((len(rows), len(columns)), np.nan)
    for rating in ratings:
        if (rating.arm, rating.item) == (arm, item) and rating.case_id in rows and rating.rater in columns:
            table[rows[rating.case_id], columns[rating.rater]] = rating.number
    return table


def agrees(table: np.ndarray) -> np.ndarray:
    """1.0 where a rating is 4 or 5, 0.0 where it is lower, NaN where there is none."""
    return np.where(np.isnan(table), np.nan, np.isin(table, AGREE).astype(float))


def mean_of(table: np.ndarray, draw_raters: bool, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Mean of the known values of (cases, raters), with a 95 % percentile bootstrap.

    Args:
        table: values, NaN where there is none.
        draw_raters: also draw raters, independently of the cases (the two-way or pigeonhole bootstrap, Owen 2007,
            doi 10.1214/07-AOAS122); its intervals are, if anything, too wide.
        seed: of the draws.
        resamples: number of draws.

    Returns:
        The interval; `n` is the number of values.
    """
    rng = np.random.default_rng(seed)
    here = ~np.isnan(table)
    values = np.where(here, table, 0.0)
    cases, raters = table.shape
    rows = rng.multinomial(cases, np.full(cases, 1 / cases), size=resamples).astype(float)
    if draw_raters:
        columns = rng.multinomial(raters, np.full(raters, 1 / raters), size=resamples).astype(float)
    else:
        columns = np.ones((resamples, raters))
    top, bottom = ((rows @ part * columns).sum(axis=1) for part in (values, here.astype(float)))
    drawn = top[bottom > 0] / bottom[bottom > 0]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(values.sum() / here.sum()), float(low), float(high), int(here.sum()))


def coefficients(table: np.ndarray, resamples: int = COEFFICIENT_RESAMPLES) -> dict[str, Figure]:
    """Agreement of the raters on one item; the first three with a bootstrap that draws cases."""
    twice = table[(~np.isnan(table)).sum(axis=1) > 1]
    if len(twice) < 2:
        return {}
    figures = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # draws without any disagreement
        for name, statistic in COEFFICIENTS.items():
            figures[name] = statistic_interval(twice, statistic, resamples=resamples).to_dict()
    figures[ICC] = icc_interval(twice).to_dict()
    return figures


def item_summary(table: np.ndarray, resamples: int = COEFFICIENT_RESAMPLES) -> dict[str, Any]:
    """Counts of the scale, share that agrees with both intervals, mean, and raters' agreement.

    Args:
        table: (cases, raters), NaN where there is none.
        resamples: of the agreement coefficients.

    Returns:
        `counts` (by number of the scale), `num_cases`, `num_ratings`, `agree` (cases drawn),
        `agree_over_raters` (cases and raters drawn; None with one rater), `mean`, `agreement`.
    """
    rated = table[~np.isnan(table).all(axis=1)]
    share = agrees(rated)
    return {
        "counts": {number: int((rated == number).sum()) for number in SCALE},
        "num_cases": len(rated),
        "num_ratings": int((~np.isnan(rated)).sum()),
        "agree": mean_of(share, draw_raters=False).to_dict(),
        "agree_over_raters": mean_of(share, draw_raters=True).to_dict() if table.shape[1] > 1 else None,
        "mean": mean_of(rated, draw_raters=False).to_dict(),
        "agreement": coefficients(rated, resamples) if table.shape[1] > 1 else {},
    }


def mixed_model(first: np.ndarray, second: np.ndarray) -> dict[str, Any] | None:
    """First minus second arm's mean score: REML with a random effect of the case, raters as fixed (MixedLM).

    Raters are fixed, because the variance among two or three of them cannot be estimated; the two-way bootstrap
    covers other raters.

    Args:
        first: (cases, raters) scores of the first arm, NaN where one is missing.
        second: of the second, rows and columns the same.

    Returns:
        The figure with its Wald interval and `p`; None without variance or where the fit does not converge.
    """
    frames = []
    for arm, table in enumerate((second, first)):
        wide = pd.DataFrame(table).reset_index()
        frames.append(wide.melt(id_vars="index", var_name="rater", value_name="score").assign(arm=float(arm)))
    frame = pd.concat(frames).dropna()
    if frame["score"].nunique() < 2 or frame["arm"].nunique() < 2:
        return None
    formula = "score ~ arm + C(rater)" if frame["rater"].nunique() > 1 else "score ~ arm"
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # whether it converged is checked below
        try:
            fit = mixedlm(formula, frame, groups=frame["index"].to_numpy()).fit(reml=True)
        except (np.linalg.LinAlgError, ValueError):
            return None
        low, high = fit.conf_int().loc["arm"]
    if not fit.converged or not np.isfinite([low, high]).all():
        return None
    interval = Interval(float(fit.params["arm"]), float(low), float(high), len(frame))
    return {**interval.to_dict(), "p": float(fit.pvalues["arm"])}


def compare(first: np.ndarray, second: np.ndarray) -> dict[str, Any] | None:
    """Two arms on one item, paired by case and rater.

    Args:
        first: (cases, raters) scores of the first arm.
        second: of the second, rows and columns the same.

    Returns:
        `agree` and `mean`: first minus second with intervals that draw cases and, where there are two raters or
        more, raters; `p` of a sign-flip test over cases of the mean difference; `mixed_model`. None without a shared
        rating.
    """
    difference = first - second
    difference = difference[~np.isnan(difference).all(axis=1)]
    if not len(difference):
        return None
    both = ~np.isnan(first) & ~np.isnan(second)
    share = np.where(both, agrees(first) - agrees(second), np.nan)
    share = share[both.any(axis=1)]
    raters = first.shape[1] > 1
    return {
        "agree": mean_of(share, raters).to_dict(),
        "mean": mean_of(difference, raters).to_dict(),
        "p": sign_flip(np.nansum(difference, axis=1)),
        "mixed_model": mixed_model(first, second),
    }


def sign_flip(per_case: np.ndarray, seed: int = 0, resamples: int = 10_000) -> float:
    """Two-sided p that a sum over cases is 0, by flipping signs of cases (all raters of a case together)."""
    rng = np.random.default_rng(seed)
    signs = rng.integers(0, 2, size=(resamples, len(per_case))) * 2 - 1
    return float((np.sum(np.abs(signs @ per_case) >= abs(per_case.sum()) - 1e-9) + 1) / (resamples + 1))


def summary(
    ratings: Sequence[Rating],
    first: str = "two_step",
    resamples: int = COEFFICIENT_RESAMPLES,
    urgencies: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Everything about a run's ratings.

    Args:
        ratings: as `eval.rating.ratings.read_ratings` gives them.
        first: the arm that the others are compared with.
        resamples: of the agreement coefficients.
        urgencies: urgency by case, where the list of cases has it.

    Returns:
        `num_ratings`, `raters`, `cases` (number), `arms` {arm: {item: item_summary}}, `hallucination`
        {arm: figure}, `pairs` {"A_minus_B": {item: compare}} with `p_holm` over all of them. `roles` {role: number
        of raters}; with several roles `by_role` {role: the same of its raters alone}, because an item that both
        dermatologists and lay users rate is not one opinion. `urgency`, where it was asked: `urgency_summary`.
    """
    raters: dict[str, set[str]] = {}
    for rating in ratings:
        raters.setdefault(rating.role or UNKNOWN, set()).add(rating.rater)
    roles = [role for role in (*ROLES, UNKNOWN) if role in raters]
    result = _summary(ratings, first, resamples) | {"roles": {role: len(raters[role]) for role in roles}}
    if len(roles) > 1:
        result["by_role"] = {
            role: _summary([r for r in ratings if (r.role or UNKNOWN) == role], first, resamples)
            for role in roles
        }
    triage = urgency_summary(ratings, urgencies or {})
    return result | ({"urgency": triage} if triage else {})


def _summary(ratings: Sequence[Rating], first: str, resamples: int) -> dict[str, Any]:
    """What raters say, whatever their role; see `summary`."""
    scored = [rating for rating in ratings if rating.item in ITEMS]
    arms = list(dict.fromkeys(r.arm for r in scored))
    arms.sort(key=lambda arm: arm != first)
    cases, raters = (list(dict.fromkeys(getattr(r, key) for r in ratings)) for key in ("case_id", "rater"))
    tables = {(a, i): rating_table(scored, a, i, cases, raters) for a in arms for i in ITEMS}
    tables = {key: table for key, table in tables.items() if not np.isnan(table).all()}
    pairs: dict[str, dict[str, Any]] = {}
    for other in arms[1:] if arms and arms[0] == first else []:
        for item in ITEMS:
            if (first, item) in tables and (other, item) in tables:
                pair_summary = compare(tables[first, item], tables[other, item])
                if pair_summary:
                    pairs.setdefault(f"{first}_minus_{other}", {})[item] = pair_summary
    tests = [entry for pair in pairs.values() for entry in pair.values()]
    for entry, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
        entry["p_holm"] = p
    flagged = {arm: rating_table(ratings, arm, FLAG, cases, raters) for arm in arms}
    return {
        "num_ratings": len(scored),
        "raters": len(raters),
        "cases": len({r.case_id for r in scored}),
        "arms": {
            a: {i: item_summary(tables[a, i], resamples) for i in ITEMS if (a, i) in tables} for a in arms
        },
        "hallucination": {
            a: mean_of(t, False).to_dict() for a, t in flagged.items() if not np.isnan(t).all()
        },
        "pairs": pairs,
    }
