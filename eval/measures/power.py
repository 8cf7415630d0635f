"""How many cases and raters an evaluation needs: widths of intervals, and the power of McNemar's test."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import binom, binomtest, norm

from skingpt4.support.errors import UserError

MAX_CASES = 1_000_000
CASES, RATERS = (50, 100, 150, 300, 600, 1000), (1, 2, 3, 5, 10, 20)


class PowerError(UserError):
    """Numbers that no evaluation can have; the message says which and why."""


def _first(enough: Callable[[int], bool], what: str) -> int:
    """The smallest n for which a condition holds; searched by doubling, then halving."""
    high = 1
    while not enough(high):
        high *= 2
        if high > MAX_CASES:
            raise PowerError(f"more than {MAX_CASES:,} cases are needed {what}")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def wilson_width(share: float, n: int) -> float:
    """Width (0 to 1) of the 95 % Wilson interval of a share of n cases."""
    interval = binomtest(round(share * n), n).proportion_ci(method="wilson")
    return float(interval.high - interval.low)


def cases_for_width(share: float, width: float) -> int:
    """Cases for a 95 % Wilson interval no wider than `width`, should the share come out as expected.

    Args:
        share: expected, 0 to 1.
        width: of the complete interval, 0 to 1.

    Raises:
        PowerError: a number lies outside its range, or too many cases are needed.
    """
    _inside("share", share, 0, 1)
    _inside("width", width, 0, 1)
    return _first(lambda n: wilson_width(share, n) <= width, "for so narrow an interval")


def mcnemar_power(better: float, worse: float, n: int, alpha: float = 0.05) -> float:
    """Power of the exact McNemar test, two-sided, over the number of discordant cases.

    Args:
        better: share of cases that only the first arm has right.
        worse: share that only the second arm has right.
        n: cases.
        alpha: level of the test.

    Returns:
        Probability (0 to 1) that the test rejects.
    """
    discordant = better + worse
    spread = np.arange(n + 1)
    weight = binom.pmf(spread, n, discordant)
    power = 0.0
    for count in spread[weight > 1e-9]:
        # The largest k for which both tails together stay within alpha.
        edge = int(binom.ppf(alpha / 2, count, 0.5))
        edge -= 1 if 2 * binom.cdf(edge, count, 0.5) > alpha else 0
        if edge < 0:
            continue
        share = better / discordant
        reject = binom.cdf(edge, count, share) + binom.sf(count - edge - 1, count, share)
        power += weight[count] * reject
    return float(power)


def cases_for_difference(better: float, worse: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Cases for the exact McNemar test to see the difference with this power; see `mcnemar_power`.

    The exact test's power is not quite monotone in n, so a few cases more may do a little worse.

    Raises:
        PowerError: a number lies outside its range, or too many cases are needed.
    """
    _inside("better", better, 0, 1)
    _inside("worse", worse, -1e-12, 1)
    _inside("power", power, 0, 1)
    if better + worse > 1 or better == worse:
        raise PowerError("--better and --worse must differ and sum to at most 1")
    # The normal approximation tells where an exact search would be slow (Connor 1987, Biometrics 43:207).
    discordant, difference = better + worse, abs(better - worse)
    z, z_power = norm.isf(alpha / 2), norm.isf(1 - power)
    near = (z * discordant**0.5 + z_power * (discordant - difference**2) ** 0.5) ** 2 / difference**2
    if near > 20_000:
        return int(np.ceil(near))
    return _first(lambda n: mcnemar_power(better, worse, n, alpha) >= power, "to see so small a difference")


def ratings_half_width(
    share: float, num_cases: int, num_raters: int, case_icc: float, rater_icc: float
) -> float:
    """Half the 95 % interval of a share of ratings when every rater judges every case.

    Variance of a mean in the crossed design with random cases and raters: p(1-p) times
    case_icc / cases + rater_icc / raters + (1 - case_icc - rater_icc) / (cases * raters).

    Args:
        share: of the ratings, 0 to 1.
        num_cases: at least 1.
        num_raters: at least 1.
        case_icc: share of the ratings' variance that lies between cases.
        rater_icc: share that lies between raters.

    Raises:
        PowerError: a number lies outside its range.
    """
    _inside("share", share, 0, 1)
    if min(case_icc, rater_icc) < 0 or case_icc + rater_icc > 1:
        raise PowerError("--case-icc and --rater-icc must not be negative and sum to at most 1")
    rest = 1 - case_icc - rater_icc
    spread = case_icc / num_cases + rater_icc / num_raters + rest / (num_cases * num_raters)
    return float(norm.isf(0.025) * (share * (1 - share) * spread) ** 0.5)


def _inside(name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        raise PowerError(f"--{name}: {value:g} must lie between {max(low, 0):g} and {high:g}")


def ratings_table(share: float, case_icc: float, rater_icc: float) -> str:
    """Half-widths in points: one row per number of cases, one column per number of raters."""
    lines = ["cases   " + "".join(f"{r:>4} raters" for r in RATERS)]
    for cases in CASES:
        widths = (ratings_half_width(share, cases, raters, case_icc, rater_icc) for raters in RATERS)
        lines.append(f"{cases:>5}   " + "".join(f"{100 * width:>11.1f}" for width in widths))
    return "\n".join(lines)
