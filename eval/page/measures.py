"""The section of further measures: balanced accuracy, invented concepts, calibration, gaps between groups."""

from __future__ import annotations

from typing import Any

from eval.measures.intervals import Interval
from eval.page.figures import SKIN_TYPES, coverage_figure, escape, plain, reliability_figure
from eval.page.markup import cell, details, figure, number, paragraph, table

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

MEASURED = {"top1": "class top-1", "top1_text": "class in text", "concept_micro_f1": "concept F1"}
GROUPINGS = {
    "class": "class",
    "fitzpatrick": "Fitzpatrick skin type",
    "fitzpatrick_pairs": "pairs of skin types",
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
    """Differences between groups of cases, with the test that chance alone made them; arms but the first folded."""
    tables = {name: rows for name, arm in arms.items() if (rows := _gaps_of(arm))}
    if not tables:
        return ""
    head = ["measure", "groups", "highest", "lowest", "gap", "p of all groups"]
    shown = [table(f"{plain(name)}: how far groups lie apart", head, rows) for name, rows in tables.items()]
    text = (
        "p: whether chance alone puts the groups so far apart (permutation of cases, not corrected for the number "
        "of rows). The gap's interval takes its two groups as chosen beforehand, so with many groups it lies too "
        "far from 0; p does not."
    )
    others = details("The same of the other arms", "".join(shown[1:])) if shown[1:] else ""
    return f"<h3>Gaps between groups</h3>{shown[0]}{paragraph(text, soft=True)}{others}"


def _gaps_of(arm: dict[str, Any]) -> list[list[str]]:
    """One row for each grouping and measure of an arm."""
    rows = []
    for grouping, measures in (at(arm, "groups") or {}).items():
        for measure, found in measures.items() if isinstance(measures, dict) else ():
            gap = at(found, "gap")
            if not isinstance(gap, dict) or gap.get("value") is None:
                continue
            ends = [
                escape(SKIN_TYPES.get(str(part), plain(str(part)))) if gap["value"] else "–"
                for part in (gap.get("highest"), gap.get("lowest"))
            ]
            p, span = at(found, "p"), Interval.from_dict(gap).points().replace("-", "−").split(" (")
            rows.append(
                [
                    escape(MEASURED.get(measure, plain(measure))),
                    escape(GROUPINGS.get(grouping, plain(grouping))),
                    *ends,
                    f"{span[0].lstrip('+')} <small>{span[1].split(',')[0]}</small>",
                    "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
                ]
            )
    return rows
