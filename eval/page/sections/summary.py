"""The first page of the report: what was evaluated, the main figures of every arm, and what they say in sentences."""

from __future__ import annotations

from collections import Counter
from typing import Any

from eval.measures.intervals import Interval
from eval.measures.results import CONTROLS, HEADLINE
from eval.page.data import Report
from eval.page.parts import (
    Bullets,
    Cell,
    Part,
    Row,
    Table,
    Text,
    number,
    number_cell,
    p_equals,
    plain,
    share_cell,
)
from eval.page.sections.arms import headline_cell, missing, note_of
from eval.page.sections.ratings import ROLE_WORDS, by_role

NBSP = "\u00a0"
SHOWN_ITEM = {
    "lay": "helps_patients"
}  # the item of each role that the summary shows; all others: the diagnosis
ITEM_WORDS = {"diagnosis": "diagnosis right", "helps_patients": "helps to understand"}


def lead(report: Report) -> str:
    """The main result in a sentence."""
    name, unit = next(iter(report.units().items()))
    said = []
    if top1 := unit.get("top1"):
        said.append(f"puts the right class first in {Interval.from_dict(top1).text()} of the cases")
    if text := unit.get("top1_text"):
        said.append(f"commits to it in its text in {Interval.from_dict(text).text()}")
    if f1 := unit.get("concept_micro_f1"):
        said.append(f"names concepts with a micro F1 of {Interval.from_dict(f1).text()}")
    sentence = "; it ".join(said) if said else "has no answers that can be judged by a label"
    return f"The {plain(name)} model {sentence}.".replace(" %", NBSP + "%")


def summary_parts(report: Report) -> list[Part]:
    """What fits on a page."""
    return [
        Text(_what(report)),
        _table(report),
        Bullets([("", text) for text in _findings(report)]),
        Text(LIMITS, "soft"),
    ]


LIMITS = (
    "Intervals are 95 %, n is the number of cases; a dash means not measured, never zero. Cases, raters "
    "and models decide these figures: they say how these arms answer these cases, and not that any of "
    "them may advise anyone."
)


def _what(report: Report) -> str:
    """Cases, arms and raters in numbers."""
    task, num_cases = report.answers.task, report.results["num_cases"]
    kinds = Counter(report.kind(arm) for arm in report.arms)
    foreign = sum(count for kind, count in kinds.items() if kind != "projection")
    text = f"{num_cases} case{'s' * (num_cases != 1)} of the task “{task.title}”, answered by {len(report.arms)} arms"
    text += f" ({foreign} of them not ours)." if foreign else "."
    if raters := report.results.get("ratings", {}).get("raters"):
        roles = Counter(dict((r.rater, r.role) for r in report.ratings).values())
        who = ", ".join(
            f"{count} {ROLE_WORDS[role]}{'s' * (count > 1)}" for role, count in roles.items() if role
        )
        text += f" Rated by {raters} rater{'s' * (raters > 1)}{f' ({who})' if who else ''}."
    else:
        text += " Nobody has rated the answers yet."
    return text


def _table(report: Report) -> Table:
    rated = by_role(report.results.get("ratings") or {})
    measured = {measure for unit in report.units().values() for measure in unit}
    columns = [measure for measure in HEADLINE if measure in measured and measure != "top3"]
    head = ["arm", *(HEADLINE[measure] for measure in columns)]
    head += [f"{ROLE_WORDS[role]}s: {ITEM_WORDS[SHOWN_ITEM.get(role, 'diagnosis')]}" for role in rated]
    head += ["seconds, first answer"]
    rows: list[Row] = []
    for unit in report.units():
        member = report.groups.get(unit, [unit])[0]
        note = note_of(report, unit)
        cells = [headline_cell(report, unit, measure, report.results["num_cases"]) for measure in columns]
        for role, summary in rated.items():
            figure = summary["arms"].get(member, {}).get(SHOWN_ITEM.get(role, "diagnosis"), {}).get("agree")
            cells.append(share_cell(figure) if figure else missing("not rated"))
        seconds = next(
            (
                figures["seconds"]
                for name, figures in report.results["arms"][member].get("answers", {}).items()
                if name.startswith("turn") and "seconds" in figures
            ),
            None,
        )
        cells.append(number_cell(seconds) if seconds else missing("no times"))
        rows.append([Cell(plain(unit), (note,) if note else ()), *cells])
    return Table(
        f"Every arm; n = {report.results['num_cases']} where a cell does not say another", head, rows
    )


def _findings(report: Report) -> list[str]:
    """Sentences about the first arm: against the best, controls, floor and start; gaps, confidence, raters."""
    units, pairs = report.units(), report.pairs()
    name = next(iter(units))
    texts = [_best(report)]
    questions = {
        "blank_image": "Does it look at the picture? Against the same model with a blank picture",
        "untrained": "Has training taught it anything? Against the untrained projection",
        "probe": "Is a language model needed? Against the classifier on image features",
    }
    for other in units:
        kind = other if other in questions else report.kind(report.groups.get(other, [other])[0])
        if other != name and kind in questions:
            texts.append(_against(questions[kind], pairs.get(f"{name}_minus_{other}", {})))
    member = report.results["arms"][report.groups.get(name, [name])[0]]
    texts += [_gap(member), _confidence(member)]
    return [text for text in texts if text]


def _best(report: Report) -> str:
    """Which system stands highest in top-1, controls aside, and whether the first arm differs from it."""
    ranked = {
        name: unit["top1"]["value"]
        for name, unit in report.units().items()
        if "top1" in unit and name not in CONTROLS
    }
    if len(ranked) < 2:
        return ""
    name, best = next(iter(report.units())), max(ranked, key=lambda arm: ranked[arm])
    highest = f"Highest top-1: {plain(best)} with {100 * ranked[best]:.1f} %"
    if best == name or name not in ranked:
        return f"{highest}."
    pair = report.pairs().get(f"{name}_minus_{best}", {}).get("top1")
    return _against(f"{highest}; {plain(name)} against it", {"top1": pair} if pair else {})


def _against(question: str, pair: dict[str, Any]) -> str:
    said = []
    for measure, words in HEADLINE.items():
        if figure := pair.get(measure):
            p = figure.get("p_holm", figure["p"])
            said.append(f"{words} {_points(figure)}, {p_equals(p)}")
    return f"{question}: {'; '.join(said)} (Holm)." if said else ""


def _gap(arm: dict[str, Any]) -> str:
    compared = arm.get("groups", {}).get("fitzpatrick_pairs", {}).get("top1", {})
    gap = compared.get("dark_minus_light")
    if not gap:
        return ""
    return f"Skin types V–VI minus I–II, top-1: {_points(gap)}, {p_equals(gap['p'])}, not corrected."


def _points(figure: dict[str, Any]) -> str:
    return Interval.from_dict(figure).points().replace("-", "−")


def _confidence(arm: dict[str, Any]) -> str:
    calibration = arm.get("calibration")
    if not calibration:
        return ""
    over, ece = calibration["overconfidence"], calibration["ece"]
    chance = calibration["ece_if_calibrated"]["value"]
    return (
        f"Confidence minus accuracy: {_points(over)}; expected calibration error {number(ece['value'])} "
        f"({number(chance)} if it were calibrated)."
    )
