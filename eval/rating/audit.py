"""An audit of the figures that the paper prints, and ratings of one's own beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import numpy as np

from eval.measures.intervals import Interval, proportion
from eval.rating.questionnaire import AGREE, ITEMS, UNKNOWN
from eval.rating.ratings import Rating, RatingsError, read_ratings

STATED_CASES, LARGEST = 150, 200
RESAMPLES = 2000


def counts_behind(percent: str | float, n: int, decimals: int = 2) -> list[int]:
    """Counts k of n that print as this percentage, however one rounds (half up, half to even, cut off).

    Args:
        percent: as printed.
        n: the denominator, at least 1.
        decimals: printed digits after the point.
    """
    printed, step = Decimal(str(percent)), Decimal(1).scaleb(-decimals)
    near = int(printed * n / 100)
    return [
        k
        for k in range(max(0, near - 1), min(n, near + 2) + 1)
        if any(
            (Decimal(100 * k) / n).quantize(step, rounding) == printed
            for rounding in (ROUND_HALF_UP, ROUND_HALF_EVEN, ROUND_DOWN)
        )
    ]


def denominators(percent: str | float, largest: int = LARGEST, decimals: int = 2) -> list[int]:
    """Every n from 1 to `largest` for which some count prints as this percentage."""
    return [n for n in range(1, largest + 1) if counts_behind(percent, n, decimals)]


def common_denominators(percents: Iterable[float], largest: int = LARGEST) -> list[tuple[int, int]]:
    """(n, how many of the percentages it can produce), the best first, then the smallest."""
    percents = list(percents)
    fits = [(n, sum(bool(counts_behind(p, n)) for p in percents)) for n in range(2, largest + 1)]
    return sorted(fits, key=lambda pair: (-pair[1], pair[0]))


def consistency_readings(ratio: float, samples: int, repeats: int) -> list[dict[str, Any]]:
    """What the printed consistency could be a share of; `counts` is empty where it can be none."""
    pairs = repeats * (repeats - 1) // 2
    readings = {
        f"answers ({samples} samples x {repeats} repeats)": samples * repeats,
        f"samples ({samples})": samples,
        f"pairs of repeats, over all samples ({samples} x {pairs})": samples * pairs,
        "samples of the figure's 75 columns x repeats": 75 * repeats,
        f"pairs over the figure's 75 columns (75 x {pairs})": 75 * pairs,
    }
    return [{"share_of": name, "n": n, "counts": counts_behind(ratio, n)} for name, n in readings.items()]


def agreement(ratings: Sequence[Rating], item: str, seed: int = 0) -> Interval | None:
    """Share of ratings of an item that agree (4 or 5), cases drawn with all their ratings for the interval.

    `n` is the number of cases. None where nobody rated the item.
    """
    by_case: dict[str, list[bool]] = {}
    for rating in ratings:
        if rating.item == item:
            by_case.setdefault(rating.case_id, []).append(rating.number in AGREE)
    if not by_case:
        return None
    agree = np.array([sum(values) for values in by_case.values()])
    total = np.array([len(values) for values in by_case.values()])
    drawn = np.random.default_rng(seed).integers(len(agree), size=(RESAMPLES, len(agree)))
    shares = agree[drawn].sum(axis=1) / total[drawn].sum(axis=1)
    low, high = np.percentile(shares, [2.5, 97.5])
    return Interval(float(agree.sum() / total.sum()), float(low), float(high), len(agree))


def audit(printed: dict[str, Any], ratings: Sequence[Rating] = ()) -> dict[str, Any]:
    """Everything that the command prints, as plain data."""
    result: dict[str, Any] = {"questionnaire": {}, "stated_cases": STATED_CASES}
    for version, values in printed["questionnaire"]["percent"].items():
        shown = dict(zip(ITEMS, values["agree_or_strongly"], strict=True))
        extra = {
            "diagnosis, strongly agree": values["strongly_agree_item_1"],
            "diagnosis, agree": values["agree_item_1"],
        }
        every = {**shown, **extra}
        best, fitting = common_denominators(every.values())[0]
        rows = []
        for name, percent in every.items():
            behind = counts_behind(percent, best)
            rows.append(
                {
                    "item": name,
                    "percent": percent,
                    "possible_with_stated_cases": bool(counts_behind(percent, STATED_CASES)),
                    "denominators": denominators(percent),
                    "count_of_best": behind[0] if behind else None,
                    "interval_of_best": proportion(behind[0], best).to_dict() if behind else None,
                    "own": own.to_dict() if (own := agreement(ratings, name)) else None,
                }
            )
        result["questionnaire"][version] = {
            "best_denominator": best, "explains": fitting, "of": len(every), "rows": rows,
        }  # fmt: skip
    stated = printed["consistency"]
    result["consistency"] = consistency_readings(
        stated["ratio_percent"], stated["samples"], stated["repeats"]
    )
    table = printed["table2"]
    result["table2"] = {
        "sum_of_rows": sum(table["counts"].values()),
        "printed_total": table["total"],
        "dermnet_plus_in_house": table["dermnet_images"] + table["in_house_images"],
    }
    return result


def show(result: dict[str, Any]) -> str:
    """The audit for people."""
    lines = []
    for version, edition in result["questionnaire"].items():
        best = edition["best_denominator"]
        lines += [
            "",
            f"Questionnaire, {version}: {STATED_CASES} cases are stated. {best} forms can produce "
            f"{edition['explains']} of the {edition['of']} printed percentages.",
            f"{'item':26}{'printed':>8}  {f'of {STATED_CASES}?':8}{f'of {best}':>8}  {'95 % interval':16}own ratings",
        ]
        for row in edition["rows"]:
            interval, own = row["interval_of_best"], row["own"]
            lines.append(
                f"{row['item']:26}{row['percent']:>8.2f}  "
                f"{'possible' if row['possible_with_stated_cases'] else 'no':8}"
                f"{row['count_of_best'] if interval else 'none':>8}  "
                + (f"{100 * interval['low']:.1f} to {100 * interval['high']:.1f}" if interval else "").ljust(
                    16
                )
                + (Interval.from_dict(own).text() if own else "-")
            )
    lines += [
        "The intervals count every form as independent; forms on the same case are not, so the true ones are wider.",
        "",
        "Consistency: what can the printed share be a share of?",
    ]
    for reading in result["consistency"]:
        counts = ", ".join(map(str, reading["counts"])) or "none"
        lines.append(f"  {reading['share_of']:52} n = {reading['n']:<6} counts: {counts}")
    table = result["table2"]
    lines += [
        "",
        f"Table 2: its rows sum to {table['sum_of_rows']:,}, printed {table['printed_total']:,}; Dermnet and "
        f"in-house pictures together are {table['dermnet_plus_in_house']:,}.",
    ]
    return "\n".join(lines).strip()


def own_ratings(path: Path, arm: str | None, role: str | None = None) -> list[Rating]:
    """The ratings of one arm by raters of one role.

    Raises:
        RatingsError: no such file, arm or role, or several and none is named: they are never pooled.
    """
    ratings = [rating for rating in read_ratings(path) if rating.item in ITEMS]
    for option, chosen in (("arm", arm), ("role", role)):
        there = list(dict.fromkeys(getattr(rating, option) or UNKNOWN for rating in ratings))
        if chosen not in there and (chosen or len(there) > 1):
            several = "rates several arms" if option == "arm" else "holds ratings of several roles"
            what = f"has no ratings of {option} {chosen!r}" if chosen else several
            raise RatingsError(
                f"{path}: {what}; name one with --{option}: {', '.join(there) or 'there is none'}"
            )
        ratings = [r for r in ratings if chosen in (None, getattr(r, option) or UNKNOWN)]
    return ratings
