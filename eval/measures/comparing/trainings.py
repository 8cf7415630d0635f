"""Several trainings of one recipe as one arm: their mean, how far they differ, and one recipe against another.

A figure of one checkpoint says how that checkpoint does on other cases like these. What a recipe does also depends on
the seed of its training, so here cases and trainings are both drawn.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import t as student

from eval.measures.comparing.arms import compare_pair, correct
from eval.measures.comparing.groups import Measured, measures
from eval.measures.intervals import (
    RESAMPLES,
    Interval,
    Line,
    case_draws,
    having,
    in_top_k,
    percentile_interval,
    proportion,
)
from skingpt4.support.errors import UserError

MEASURES = ("top1", "top3", "top1_text", "concept_micro_f1")
TEST = "t over cases and trainings, degrees of freedom by Satterthwaite"


class GroupError(UserError):
    """A group of trainings that cannot be formed; the message says why."""


@dataclass(frozen=True)
class Trained:
    """One measure of the trainings of a recipe on the cases that all of them answered.

    `top` and `bottom` are (trainings, cases): a training's value is the sum of its tops over that of its bottoms.
    """

    case_ids: tuple[str, ...]
    top: np.ndarray
    bottom: np.ndarray
    is_share: bool

    def values(self) -> np.ndarray:
        """Each training's value: (trainings,)."""
        return _ratio(self.top.sum(axis=1), self.bottom.sum(axis=1))

    def at(self, case_ids: Sequence[str]) -> Trained:
        """The same on these cases alone."""
        places = {name: place for place, name in enumerate(self.case_ids)}
        chosen = [places[name] for name in case_ids]
        return Trained(tuple(case_ids), self.top[:, chosen], self.bottom[:, chosen], self.is_share)

    def drawn(self, weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The mean over trainings in each resample, cases drawn as `weights` (resamples, cases) says: (resamples,).

        Trainings are drawn too. Draws of R trainings vary less than trainings do, by R - 1 over R; their deviations
        from the mean are widened by the root of that.
        """
        each = _ratio(weights @ self.top.T, weights @ self.bottom.T)
        mean, number = each.mean(axis=1), each.shape[1]
        if number == 1:
            return mean
        which = rng.multinomial(number, np.full(number, 1 / number), size=len(weights)) / number
        return mean + np.sqrt(number / (number - 1)) * ((each * which).sum(axis=1) - mean)

    def linear(self) -> np.ndarray:
        """One number a training and case whose mean over cases is the training's value; for variances.

        A share's is 0 or 1; that of a ratio follows by linearisation (the infinitesimal jackknife).
        """
        values = self.values()[:, None]
        return values + (self.top - values * self.bottom) / self.bottom.mean(axis=1, keepdims=True)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.zeros(np.broadcast(top, bottom).shape), where=bottom > 0)


def parse_groups(texts: Sequence[str], arms: Sequence[str]) -> dict[str, list[str]]:
    """`two_step=two_step_s0,two_step_s1` or `two_step=two_step_s*`: the arms of each group.

    Raises:
        GroupError: a name that no arm has, an arm in two groups, or a group that is called like another arm.
    """
    groups: dict[str, list[str]] = {}
    for text in texts:
        name, _, members = text.partition("=")
        if not name.isidentifier() or not members:
            raise GroupError(f"--group {text!r}: write NAME=ARM,ARM,... or NAME='PATTERN*'")
        chosen: list[str] = []
        for pattern in members.split(","):
            matches = [arm for arm in arms if fnmatch.fnmatchcase(arm, pattern.strip())]
            if not matches:
                raise GroupError(f"--group {name}: no arm is called {pattern!r}; there are {', '.join(arms)}")
            chosen += [arm for arm in matches if arm not in chosen]
        for other, members_of_other in groups.items():
            for arm in chosen:
                if arm in members_of_other:
                    raise GroupError(f"--group {name}: arm {arm} is in the group {other} already")
        if name in groups or (name in arms and name not in chosen):
            raise GroupError(f"--group {name}: this name is taken; give the group another one")
        groups[name] = chosen
    return groups


def check_groups(groups: Mapping[str, Sequence[str]], metas: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse groups whose arms are not trainings of one recipe, as far as their meta files say.

    Raises:
        GroupError: the same checkpoint twice, or arms that were asked in other ways.
    """
    for name, arms in groups.items():
        seen: dict[str, str] = {}
        for arm in arms:
            made_of = metas[arm].get("checkpoint_sha256")
            if made_of and made_of in seen:
                raise GroupError(
                    f"--group {name}: {seen[made_of]} and {arm} are the same checkpoint, not two trainings"
                )
            seen[made_of or arm] = arm
            for key in (
                "kind",
                "step",
                "encoder",
                "language_model",
                "template",
                "prompts",
                "decoding",
                "precision",
            ):
                if metas[arm].get(key) != metas[arms[0]].get(key):
                    raise GroupError(
                        f"--group {name}: {arms[0]} and {arm} differ in {key}; name them separately"
                    )


def trained(arms: Sequence[Sequence[Line]]) -> dict[str, Trained]:
    """Each measure that all trainings of a recipe have, on the cases that all of them have it for.

    Args:
        arms: the lines of each training.
    """
    per_arm = [_measures(lines) for lines in arms]
    joined = {}
    for name in MEASURES:
        if not all(name in each for each in per_arm):
            continue
        places = [{line["case_id"]: place for place, line in enumerate(each[name][0])} for each in per_arm]
        shared = tuple(case for case in places[0] if all(case in others for others in places))
        if not shared:
            continue
        measured = [each[name][1] for each in per_arm]
        chosen = [[place[case] for case in shared] for place in places]
        top, bottom = (
            np.stack([getattr(m, part)[rows] for m, rows in zip(measured, chosen, strict=True)])
            for part in ("top", "bottom")
        )
        joined[name] = Trained(shared, top, bottom, measured[0].is_share)
    return joined


def _measures(lines: Sequence[Line]) -> dict[str, tuple[list[Line], Measured]]:
    found = measures(lines)
    if scored := having(lines, "class_scores"):
        hits = in_top_k(scored, 3).astype(np.float64)
        found["top3"] = (scored, Measured(hits, np.ones(len(hits)), True))
    return found


def mean_interval(measure: Trained, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """The mean over trainings; its interval draws cases and trainings, and lies between 0 and 1.

    With one training it is the interval of an arm: over cases alone, Wilson's for shares. Wilson's too where a share
    is 0 or 1 in every training: there is nothing to draw then, which does not make it certain.
    """
    if len(measure.top) == 1:
        every = np.arange(len(measure.case_ids))
        return Measured(measure.top[0], measure.bottom[0], measure.is_share).interval(every)
    weights = case_draws(len(measure.case_ids), resamples, seed)
    drawn = measure.drawn(weights, np.random.default_rng([seed, 1]))
    value, count = float(measure.values().mean()), len(measure.case_ids)
    if measure.is_share and value in (0.0, 1.0):
        return proportion(round(value * count), count)
    found = percentile_interval(value, drawn, count)
    return replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0))


def difference(first: Trained, second: Trained, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """First recipe minus second on the cases of both: the same drawn cases, each recipe's trainings drawn by itself.

    Returns:
        The figure with `p`, `df`, `standard_error` and `test`. A side with one training counts as fixed: the test is
        then about that checkpoint.
    """
    in_second = set(second.case_ids)
    shared = [case for case in first.case_ids if case in in_second]
    a, b = first.at(shared), second.at(shared)
    weights = case_draws(len(shared), resamples, seed)
    rng = np.random.default_rng([seed, 1])
    value = float(a.values().mean() - b.values().mean())
    drawn = a.drawn(weights, rng) - b.drawn(weights, rng)
    error, df = _standard_error(a.linear(), b.linear())
    # Without any spread all cases differ by the same amount.
    p = float(2 * student.sf(abs(value) / error, df)) if error > 0 else float(value == 0)
    figure = percentile_interval(value, drawn, len(shared)).to_dict()
    return {**figure, "standard_error": error, "df": df, "p": p, "test": TEST}


def _standard_error(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Of the difference of means of two tables (trainings, cases) about the same cases, and its degrees of freedom.

    Cases are crossed with trainings, trainings are nested in recipes, both random: the variance is that of the cases'
    differences plus, for each recipe, what its trainings differ beyond what the cases explain (mean squares of a
    two-way analysis of variance; Obuchowski and Rockette 1995 for readers and cases).
    """
    num_cases = first.shape[1]
    per_case = first.mean(axis=0) - second.mean(axis=0)
    of_cases = float(per_case.var(ddof=1)) / num_cases if num_cases > 1 else 0.0
    parts = [(of_cases, num_cases - 1)]
    for table in (first, second):
        number = len(table)
        if number == 1 or num_cases == 1:
            continue
        rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
        df = (number - 1) * (num_cases - 1)
        parts += [
            (float(table.mean(axis=1).var(ddof=1)) / number, number - 1),
            (-float((rest**2).sum()) / df / (number * num_cases), df),
        ]
    variance = max(sum(part for part, _ in parts), of_cases)
    spread = sum(part**2 / max(df, 1) for part, df in parts)
    return float(np.sqrt(variance)), float(max(1.0, variance**2 / spread)) if spread else float("inf")


def measure_groups(groups: Mapping[str, Sequence[str]], arms: Mapping[str, Sequence[Line]]) -> dict[str, Any]:
    """Every group, and all pairs of groups and arms outside one.

    Args:
        groups: name -> its arms, of `parse_groups`.
        arms: the lines of every arm.

    Returns:
        `groups` (name: `arms`, and each measure: figure with `num_trainings`, `between_sd` (of the trainings' values,
        None with one) and `each` (arm: value)) and `pairs` (FIRST_minus_SECOND: measure: `difference`, with `p_holm`
        over the pairs).
    """
    inside = {arm for members in groups.values() for arm in members}
    units = {name: trained([arms[arm] for arm in members]) for name, members in groups.items()}
    alone = {name: trained([lines]) for name, lines in arms.items() if name not in inside}
    pairs: dict[str, dict[str, Any]] = {}
    for first, second in combinations([*units, *alone], 2):
        compared = _compare((units | alone)[first], (units | alone)[second])
        members = [groups.get(name, [name]) for name in (first, second)]
        if compared and all(len(each) == 1 for each in members):
            compared = compare_pair(*(arms[each[0]] for each in members))
        if compared:
            pairs[f"{first}_minus_{second}"] = compared
    correct(pairs)
    return {
        "groups": {
            name: {"arms": list(groups[name]), **{m: _figure(t, groups[name]) for m, t in unit.items()}}
            for name, unit in units.items()
        },
        "pairs": pairs,
    }


def _compare(first: Mapping[str, Trained], second: Mapping[str, Trained]) -> dict[str, Any]:
    """The difference in each measure that both have on common cases."""
    return {
        name: difference(measure, second[name])
        for name, measure in first.items()
        if name in second and set(measure.case_ids) & set(second[name].case_ids)
    }


def _figure(measure: Trained, arms: Sequence[str]) -> dict[str, Any]:
    values = measure.values()
    return {
        **mean_interval(measure).to_dict(),
        "num_trainings": len(values),
        "between_sd": float(values.std(ddof=1)) if len(values) > 1 else None,
        "each": dict(zip(arms, values.tolist(), strict=True)),
    }
