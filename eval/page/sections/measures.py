"""The sections of further measures (calibration, gaps between groups, ...) and of consistency (figure 4c)."""

from __future__ import annotations

from typing import Any

from eval.measures.intervals import Interval
from eval.page.figures.measures import coverage_figure, reliability_figure
from eval.page.figures.ratings import repeats_figure
from eval.page.parts import (
    NOTHING,
    SKIN_TYPES,
    Cell,
    Details,
    Figure,
    Heading,
    Pair,
    Part,
    Row,
    Table,
    Text,
    number_cell,
    p_value,
    plain,
    points_cell,
    share_cell,
)

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
    ("different_answers",): "cases whose answers to the prompts all differ",
    ("on_topic", "turn 1"): "answers on topic by their words: disease",
    ("on_topic", "turn 2"): "answers on topic by their words: features",
    ("on_topic", "turn 3"): "answers on topic by their words: cause",
    ("on_topic", "turn 4"): "answers on topic by their words: treatment",
}
COEFFICIENTS = {
    ("concepts_auroc", "micro"): "AUROC of the concepts, all together",
    ("concepts_auroc", "macro"): "AUROC of the concepts, mean",
    ("calibration", "ece"): "expected calibration error (0 is best)",
    ("calibration", "ece_if_calibrated"): "the same if it were calibrated",
    ("calibration", "brier"): "Brier score (0 best, 2 worst)",
    ("calibration", "selective", "aurc"): "area under risk and coverage (0 is best)",
}
COMPARED = {"top1": "class top-1", "top1_text": "class in text", "concept_micro_f1": "concept F1"}
GROUPINGS = {
    "class": "class",
    "fitzpatrick": "Fitzpatrick skin type",
    "fitzpatrick_pairs": "pairs of skin types",
}
GAPS = (
    "p: the probability that chance alone puts the groups so far apart (permutation of cases, not "
    "corrected for the number of rows). The gap's interval treats its two groups as chosen beforehand, so "
    "with many groups it lies too far from 0; p does not."
)

SOURCES = {
    "turn 1": "first answer of the conversation",
    "diagnosis probe": "answer to the question of diagnosis",
}
PUBLISHED = (
    "Published: 93.73 % over 45 samples and 10 repeats. This is possible as the mean pairwise agreement "
    "(1898 of 2025 pairs) but not as a fraction of 450 answers; the temperature is not stated."
)


def at(data: Any, *keys: str) -> Any:
    """What stands under nested keys; None where one is missing."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def measures_parts(arms: dict[str, dict[str, Any]]) -> list[Part]:
    """Every further measure that the results hold, by arm; reliability and selective risk of the first arm."""
    rows: list[Row] = []
    for places, cell in ((SHARES, share_cell), (COEFFICIENTS, number_cell)):
        for place, words in places.items():
            figures = [at(arm, *place) for arm in arms.values()]
            if any(at(figure, "value") is not None for figure in figures):
                rows.append([words, *(_with_n(figure, cell) for figure in figures)])
    if not rows:
        return [Text("The results of this run hold no further measures.")]
    head = ["measure", *(plain(name) for name in arms)]
    parts: list[Part] = [Table("Further measures with 95 % intervals and n", head, rows)]
    name, first = next(iter(arms.items()))
    bins, curve = at(first, "calibration", "bins"), at(first, "calibration", "selective", "curve")
    drawn = []
    if bins:
        caption = f"{plain(name)}: the confidence of an answer against how often it is right, in bins of equal size."
        drawn.append([Figure(reliability_figure(bins), caption)])
    if curve:
        caption = (
            f"{plain(name)}: wrong answers among those given, as the least confident are left unanswered."
        )
        drawn.append([Figure(coverage_figure(curve), caption)])
    return [*parts, *([Pair(drawn)] if drawn else []), *_gaps(arms)]


def _with_n(figure: dict[str, Any] | None, cell: Any) -> Cell:
    if figure is None or figure.get("value") is None:
        return Cell(NOTHING)
    content = cell(figure)
    return Cell(content.text, (*content.small, f"n = {figure['n']}"))


def _gaps(arms: dict[str, dict[str, Any]]) -> list[Part]:
    """Differences between groups of cases, with their tests; all arms but the first are folded."""
    head = ["measure", "groups", "highest", "lowest", "gap", "p of all groups"]
    tables = [
        Table(f"{plain(name)}: how far groups lie apart", head, rows)
        for name, arm in arms.items() if (rows := _gap_rows(arm))
    ]  # fmt: skip
    if not tables:
        return []
    others = [Details("The same for the other arms", tables[1:])] if tables[1:] else []
    return [Heading("Gaps between groups"), tables[0], Text(GAPS, "soft"), *others]


def _gap_rows(arm: dict[str, Any]) -> list[Row]:
    """One row for each grouping and measure of an arm."""
    rows: list[Row] = []
    for grouping, measures in (at(arm, "groups") or {}).items():
        for measure, compared in measures.items() if isinstance(measures, dict) else ():
            gap = at(compared, "gap")
            if not isinstance(gap, dict) or gap.get("value") is None:
                continue
            ends = [
                SKIN_TYPES.get(str(group), plain(str(group))) if gap["value"] else NOTHING
                for group in (gap.get("highest"), gap.get("lowest"))
            ]
            points = points_cell(gap)
            rows.append(
                [
                    COMPARED.get(measure, plain(measure)),
                    GROUPINGS.get(grouping, plain(grouping)),
                    *ends,
                    Cell(points.text.lstrip("+"), points.small),
                    p_value(at(compared, "p")),
                ]
            )
    return rows


def consistency_parts(results: dict[str, Any]) -> list[Part]:
    """Repeats and changes of every arm that has them; a sentence where there is no result.

    Args:
        results: arm -> what `eval.measures.consistency` measured of it.
    """
    repeats = [part for arm, entry in results.items() for part in _repeats(arm, entry.get("repeats"))]
    if repeats:
        return [*repeats, Text(PUBLISHED, "soft"), *_changes(results)]
    text = (
        "Each case was asked once, so nothing is known about how steady the answers are; to ask again, "
        "use eval.run --repeats 10 --temperature 0.7."
    )
    return [Text(text), *_changes(results)]


def _repeats(arm: str, entry: dict[str, Any] | None) -> list[Part]:
    if not entry:
        return []
    if entry.get("trivial"):
        same = entry.get("identical_texts")
        checked = f" ({Interval.from_dict(same).text()} of the cases had identical texts)" if same else ""
        text = (
            f"{plain(arm)}: decoding was greedy, so its {entry['repeats']} repeats are the same by "
            f"construction{checked}. This checks the software and is not a result about the model."
        )
        return [Text(text)]
    parts: list[Part] = [Heading(plain(arm))]
    rows: list[Row] = []
    for source, words in SOURCES.items():
        if source not in entry:
            continue
        data = entry[source]
        caption = f"{words}: the class of each repeat against the case's most frequent one, "
        caption += f"temperature {entry['temperature']:g}."
        drawing = repeats_figure(data["matrix"], f"repeats-{arm}-{source.replace(' ', '-')}")
        parts.append(Figure(drawing, caption[0].upper() + caption[1:]))
        shares = (share_cell(data[key]) for key in ("pairwise", "modal", "always_same"))
        rows.append([words, *shares, number_cell(data["fleiss_kappa"]), str(data["pairwise"]["n"])])
    head = [
        "answer",
        "pairs of repeats that agree",
        "most frequent class",
        "always the same",
        "Fleiss' kappa",
        "n",
    ]
    return [*parts, Table(f"{plain(arm)}: {entry['repeats']} repeats, n cases, 95 % intervals", head, rows)]


def _changes(results: dict[str, Any]) -> list[Part]:
    head = [
        "change",
        "same scored class",
        "same diagnosis in text",
        "same in first answer",
        "top-1 after it",
        "n",
    ]
    tables = []
    for arm, entry in results.items():
        rows: list[Row] = []
        for change, data in (entry.get("perturbations") or {}).items():
            figures = (data.get(key) for key in ("class_scored", "diagnosis probe", "turn 1", "top1"))
            cells = [share_cell(figure) if figure else NOTHING for figure in figures]
            n = max((figure["n"] for figure in data.values() if isinstance(figure, dict)), default=0)
            rows.append([change.replace(":", " "), *cells, str(n)])
        if rows:
            tables.append(Table(f"{plain(arm)}: changed pictures against the unchanged picture", head, rows))
    return [Heading("Changed pictures"), *tables] if tables else []
