"""The section of further measures: balanced accuracy, invented concepts, calibration, gaps between groups."""

from __future__ import annotations

from typing import Any

from eval.figures import SKIN_TYPES, escape, plain
from eval.figures_measures import coverage_figure, reliability_figure
from eval.markup import cell, figure, number, paragraph, table
from eval.metrics import Interval

# Where a figure stands in an arm's results -> the words of its row; shares of cases, in percent.
SHARES = {
    ("class", "top5"): "class in top 5",
    ("class", "balanced_accuracy"): "balanced accuracy",
    ("class", "macro_f1"): "macro F1 of the classes",
    ("text", "committed"): "answers that commit to a class",
    ("text", "accuracy_committed"): "of those, the right class",
    ("concepts", "macro", "f1"): "macro F1 of the concepts",
    ("hallucination", "cases_with_one"): "cases with a named concept that the labels do not have",
    ("hallucination", "share_of_named"): "named concepts that the labels do not have",
    ("calibration", "mean_confidence"): "mean confidence",
}
PLAIN_NUMBERS = {
    ("concepts_auroc", "micro"): "AUROC of the concepts, all together",
    ("concepts_auroc", "macro"): "AUROC of the concepts, mean",
    ("calibration", "ece"): "expected calibration error (0 is best)",
    ("calibration", "ece_if_calibrated"): "the same if it were calibrated",
    ("calibration", "brier"): "Brier score (0 best, 2 worst)",
    ("calibration", "selective", "aurc"): "area under risk and coverage (0 is best)",
}


def at(data: Any, *keys: str) -> Any:
    """What stands under nested keys; None where one is missing."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def measure_section(arms: dict[str, dict[str, Any]]) -> str:
    """Every further measure that the results hold, by arm; reliability and selective risk of the first arm."""
    rows = []
    for places, is_share in ((SHARES, True), (PLAIN_NUMBERS, False)):
        for place, words in places.items():
            found = [at(arm, *place) for arm in arms.values()]
            if any(each and each.get("value") is not None for each in found):
                rows.append([escape(words), *(_cell(each, is_share) for each in found)])
    if not rows:
        return paragraph("The results of this run hold no further measures.")
    head = ["measure", *(plain(name) for name in arms)]
    parts = [table("Further measures with 95 % intervals and n", head, rows)]
    name, first = next(iter(arms.items()))
    bins, curve = at(first, "calibration", "bins"), at(first, "calibration", "selective", "curve")
    drawn = []
    if bins:
        caption = f"{plain(name)}: the confidence of an answer against how often it is right, in bins of equal size."
        drawn.append(f"<div>{figure(reliability_figure(bins), caption)}</div>")
    if curve:
        caption = (
            f"{plain(name)}: wrong answers among those kept, as the least confident are left unanswered."
        )
        drawn.append(f"<div>{figure(coverage_figure(curve), caption)}</div>")
    parts.append(f'<div class="pair">{"".join(drawn)}</div>' if drawn else "")
    return "".join(parts) + _gaps(arms)


def _cell(found: dict[str, Any] | None, is_share: bool) -> str:
    if not found or found.get("value") is None:
        return "–"
    n = f" <small>n = {found['n']}</small>"
    if is_share:
        return cell(Interval.from_dict(found)) + n
    return f"{number(found['value'])} <small>{number(found['low'])} to {number(found['high'])}</small>{n}"


def _gaps(arms: dict[str, dict[str, Any]]) -> str:
    """Differences between groups of cases, with the test that chance alone made them."""
    rows = []
    for name, arm in arms.items():
        for grouping, measures in (at(arm, "groups") or {}).items():
            for measure, found in measures.items() if isinstance(measures, dict) else ():
                gap = at(found, "gap")
                if not isinstance(gap, dict) or gap.get("value") is None:
                    continue
                between = " and ".join(
                    SKIN_TYPES.get(str(part), plain(str(part)))
                    for part in (gap.get("highest"), gap.get("lowest"))
                    if part
                )
                p = at(found, "p")
                span = Interval.from_dict(gap).points().split(" (")
                rows.append(
                    [
                        f"{escape(plain(name))}, {escape(plain(measure))}",
                        escape(plain(grouping)),
                        escape(between or "–"),
                        f"{span[0].lstrip('+')} <small>{span[1].split(',')[0]}</small>",
                        "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
                    ]
                )
    head = ["measure", "groups", "between", "gap", "p of all groups"]
    return table("How far groups lie apart, and whether chance alone does that", head, rows) if rows else ""
