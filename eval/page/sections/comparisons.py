"""The sections about differences: between arms, between trainings of one recipe, and what others have published."""

from __future__ import annotations

from typing import Any

from eval.measures.results import HEADLINE
from eval.page.data import Report
from eval.page.parts import (
    NOTHING,
    Cell,
    Details,
    Part,
    Row,
    Table,
    Text,
    number,
    p_value,
    plain,
    points_cell,
    share_cell,
)

HOW = (
    "Paired by case. Points: first minus second with a 95 % bootstrap interval that draws both arms' "
    "cases together; where it contains zero the sign is open. Only first, only second: cases that one arm "
    "alone got right (McNemar's exact test); concept F1 is tested by exchanging answers at random. Holm: "
    "p corrected for all pairs of arms with this measure; the intervals are not corrected."
)
HOW_TRAINED = (
    "Several trainings of one recipe count as one arm: each figure is their mean. Intervals draw cases "
    "and trainings (two-way bootstrap; deviations of R trainings are widened by the root of R / (R - 1)). "
    "They cover other cases like these and other seeds; with fewer than five trainings that differ much "
    "they are too narrow. p: t test whose variance has a part of the cases and a part of the trainings "
    "(mean squares, degrees of freedom by Satterthwaite); an arm with one training counts as fixed. With "
    "one training on both sides, cases alone are drawn and McNemar's exact test is used. Holm: corrected "
    "for all pairs of this table with the measure."
)
PUBLISHED = (
    "Printed by others about other cases and models, for reference. Nothing here is tested against them."
)


def comparisons_parts(report: Report) -> list[Part]:
    """The first arm against every other, measure by measure; all other pairs are folded."""
    pairs = report.pairs()
    leading = next(iter(report.units()))
    first = {name: pair for name, pair in pairs.items() if name.startswith(f"{leading}_minus_")}
    others = {name: pair for name, pair in pairs.items() if name not in first}
    if not first and not others:
        return [Text(f"There is nothing to compare {leading} with.")]
    parts: list[Part] = []
    if first:
        parts.append(_table(f"{plain(leading)} minus each other arm", first))
    parts.append(Text(HOW_TRAINED if report.groups else HOW, "soft"))
    if others:
        parts.append(Details("All other pairs of arms", [_table("Other pairs", others)]))
    return parts


def _table(caption: str, pairs: dict[str, dict[str, Any]]) -> Table:
    rows: list[Row] = []
    for measure, words in HEADLINE.items():
        for name, pair in pairs.items():
            if measure not in pair:
                continue
            figure = pair[measure]
            rows.append(
                [
                    words,
                    f"{plain(name.partition('_minus_')[0])} − {plain(name.partition('_minus_')[2])}",
                    points_cell(figure),
                    *(str(figure.get(key, NOTHING)) for key in ("only_first", "only_second")),
                    p_value(figure["p"]),
                    p_value(figure.get("p_holm")),
                    str(figure["n"]),
                ]
            )
    head = ["measure", "arms", "points", "only first", "only second", "p", "p, Holm", "n"]
    return Table(caption, head, rows)


def trainings_parts(report: Report) -> list[Part]:
    """Each group of trainings: its mean, how far trainings differ, and each of them."""
    rows: list[Row] = []
    for name, group in report.results["trainings"]["groups"].items():
        for measure, words in HEADLINE.items():
            if measure not in group:
                continue
            figure = group[measure]
            between = figure["between_sd"]
            rows.append(
                [
                    plain(name),
                    words,
                    share_cell(figure),
                    NOTHING if between is None else f"{100 * between:.1f}",
                    ", ".join(f"{plain(arm)} {100 * value:.1f}" for arm, value in figure["each"].items()),
                    str(figure["num_trainings"]),
                    str(figure["n"]),
                ]
            )
    head = [
        "recipe",
        "measure",
        "mean",
        "SD of trainings, points",
        "each training, percent",
        "trainings",
        "n",
    ]
    return [
        Table("Means over trainings, with two-way 95 % intervals", head, rows, "words"),
        Text("How intervals and p are computed stands below the paired comparisons.", "soft"),
    ]


def published_parts(report: Report) -> list[Part]:
    """What others have printed for this task, beside the first arm's figure where the measure has one."""
    published = report.answers.task.published
    if not published:
        return [Text(f"No published figure is recorded for the task {report.answers.task.name}.")]
    rows: list[Row] = [
        [
            entry.system,
            entry.metric,
            f"{100 * entry.value:.1f} %" if 0 <= entry.value <= 1 else number(entry.value),
            str(entry.n) if entry.n else Cell(NOTHING, ("not stated",)),
            entry.source,
        ]
        for entry in published
    ]
    table = Table(
        "Published figures of this task", ["system", "measure", "value", "n", "source"], rows, "words"
    )
    return [table, Text(PUBLISHED, "soft"), *_ours(report)]


def _ours(report: Report) -> list[Part]:
    name = next(iter(report.units()))
    rows: list[Row] = [
        [words, share_cell(figure), str(figure["n"])]
        for measure, words in HEADLINE.items()
        if (figure := report.units()[name].get(measure))
    ]
    return [Table(f"{plain(name)} in this run", ["measure", "value", "n"], rows)] if rows else []
