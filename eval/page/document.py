"""The report as a list of parts: a run already read and measured into its sections."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.asking.answers import Run as Answers
from eval.measures.classification import confusion
from eval.measures.comparing.groups import by_group
from eval.measures.intervals import Interval, Line, best_class, concept_sets, per_concept
from eval.measures.results import HEADLINE
from eval.page.figures import measures as figures
from eval.page.parts import (
    SKIN_TYPES,
    Bullets,
    Cell,
    Details,
    Document,
    Figure,
    Pair,
    Part,
    Row,
    Section,
    Table,
    Text,
    p_equals,
    plain,
    share_cell,
)
from eval.page.sections.checklists import checklists_parts, facts
from eval.page.sections.gallery import NO_CLASS, gallery_parts
from eval.page.sections.measures import consistency_parts, measures_parts
from eval.page.sections.ratings import agreement_parts, ratings_parts
from eval.page.sections.times import times_parts
from eval.rating.ratings import Rating

NBSP = "\u00a0"
# What the text of an answer does, in the terms of skingpt4/taxonomy/taxonomy.py.
TEXT_OUTCOMES = {"asserted": "asserts a class", **NO_CLASS}
STEPS = {"step1": "Step 1: concepts", "step2": "Step 2: diagnoses"}
ARM_NOTES = {
    "two_step": "concepts, then diagnoses",
    "step1_only": "concepts only",
    "step2_only": "diagnoses only",
    "untrained": "projection as initialised",
    "blank_image": "two-step model, blank picture",
}


TITLES = {
    "arms": "Results of every arm",
    "comparisons": "Paired comparisons",
    "ratings": "What dermatologists say of the answers",
    "agreement": "How far the raters agree",
    "times": "Response times",
    "consistency": "Consistency",
    "losses": "Losses of both steps",
    "measures": "Further measures",
    "confusion": "Which class is taken for which",
    "concepts": "Concepts",
    "groups": "By skin type and by class",
    "gallery": "Cases",
    "method": "How the measures are computed",
    "checklists": "Reporting checklists",
    "provenance": "Provenance",
}

METHOD = """
Every case is asked two questions, each in a new conversation: one about the concepts, one about the
diagnosis. Class top-1 does not read the text: every class is scored by the log-probability of an answer
that names it, and the best-scored class must be the true one; for top 3 the true class must be among the
best three. Class in text reads the class from the written answer with the project's list of disease names
and phrases. The disease must be asserted, not ruled out or only considered; an answer that asserts none, or
diseases of several classes, counts as wrong. Concepts are measured on the cases whose concepts are known.
Concept micro F1 pools all (case, concept) pairs: twice the number of concepts rightly named, divided by
those named plus those annotated, and 0 where there are neither. Shares have Wilson 95 % intervals. F1 and
all differences have percentile bootstrap intervals that draw cases; a difference computes both arms on the
same drawn cases. McNemar's exact test uses the cases that only one arm got right. The intervals describe
the sampling of cases, not training again with another seed; where no case differs, a bootstrap interval
has no width.
"""


@dataclass(frozen=True)
class Report:
    """All that the report shows; `phantoms` says whether "all", "some" or "none" of the pictures are rendered."""

    name: str
    arms: dict[str, list[Line]]
    results: dict[str, Any]
    losses: dict[str, list[dict[str, Any]]]
    image_dir: Path
    phantoms: str
    notes: list[str]
    answers: Answers
    ratings: list[Rating]
    printed: dict[str, Any]
    chosen: tuple[str, ...] = ()  # ids of the cases to be shown; none: by rule

    @property
    def leading(self) -> tuple[str, list[Line]]:
        """The arm that is shown in detail: two_step where there is one, for it comes first."""
        return next(iter(self.arms.items()))


def document(report: Report) -> Document:
    """The complete report."""
    rated = report.results.get("ratings") or {}
    known = facts(report.answers, report.results, len(report.losses))
    consistency = report.results.get("consistency") or {}
    in_order = {arm: consistency[arm] for arm in report.arms if arm in consistency}
    parts: dict[str, list[Part]] = {
        "arms": _arms(report),
        "comparisons": _comparisons(report),
        "ratings": ratings_parts(rated, report.printed),
        "agreement": agreement_parts(rated),
        "times": times_parts(report.answers, list(report.arms), report.ratings, report.printed),
        "consistency": consistency_parts(in_order),
        "losses": _losses(report),
        "measures": measures_parts(report.results["arms"]),
        "confusion": _confusion(report),
        "concepts": _concepts(report),
        "groups": _groups(report),
        "gallery": gallery_parts(report.arms, report.image_dir, report.chosen),
        "method": [Text(METHOD.strip())],
        "checklists": checklists_parts(known, TITLES),
        "provenance": _provenance(report),
    }
    sections = [Section(key, title, parts[key]) for key, title in TITLES.items()]
    return Document(f"Evaluation of {report.name}", _introduction(report), sections)


def _introduction(report: Report) -> list[Part]:
    """The warning, the main result in a sentence, and what to know before reading the numbers."""
    pictures = {
        "all": "; the pictures are rendered phantoms with no clinical meaning",
        "some": "; some of the pictures are rendered phantoms with no clinical meaning",
    }.get(report.phantoms, "")
    name, summary = next(iter(report.results["arms"].items()))
    top1, f1 = Interval.from_dict(summary["top1"]), summary.get("concept_micro_f1")
    text = f"The {plain(name)} model puts the right class first in {top1.text()} of the cases; " + (
        f"its concept micro F1 is {Interval.from_dict(f1).text()}." if f1 else "their concepts are unknown."
    )
    notes = [Bullets([("", note) for note in report.notes])] if report.notes else []
    warning = Text(f"Research software, not a medical device{pictures}.", "warn")
    return [warning, Text(text.replace(" %", NBSP + "%"), "lead"), *notes]


def _measure(figure: dict[str, Any] | None, n: int) -> Cell:
    """A measure of an arm; with its own n where it rests on fewer cases than the arm has."""
    if figure is None:
        return Cell("not annotated")
    cell = share_cell(figure)
    return cell if figure["n"] == n else Cell(cell.text, (*cell.small, f"n = {figure['n']}"))


def _arms(report: Report) -> list[Part]:
    arms = report.results["arms"]
    rows: list[Row] = []
    for name, summary in arms.items():
        n = summary["top1"]["n"]
        note = ARM_NOTES.get(name)
        cells = [_measure(summary.get(key), n) for key in HEADLINE]
        rows.append([Cell(plain(name), (note,) if note else ()), *cells, str(n)])
    chance = 1 / len(report.leading[1][0]["class_scores"])
    drawing = figures.arms_figure({plain(name): arm for name, arm in arms.items()}, chance)
    caption = (
        f"Circles: top-1. Squares: concept micro F1. Dotted: one of {round(1 / chance)} classes by chance."
    )
    table = Table(
        "Each measure above its 95 % interval; n is the number of cases",
        ["arm", *HEADLINE.values(), "n"],
        rows,
    )
    return [table, *_text_outcomes(report), Figure(drawing, caption)]


def _text_outcomes(report: Report) -> list[Part]:
    """What the written answers commit to, by arm; empty where the answers do not say."""
    by_arm = {arm: counts for arm, counts in report.results.get("text_outcomes", {}).items() if counts}
    if not by_arm:
        return []
    names = [name for name in TEXT_OUTCOMES if any(name in counts for counts in by_arm.values())]
    rows: list[Row] = [
        [plain(arm), *(str(counts.get(name, 0)) for name in names)] for arm, counts in by_arm.items()
    ]
    head = ["arm", *(TEXT_OUTCOMES[name] for name in names)]
    table = Table("Answers by what their text says", head, rows)
    return [Details("What the written answers commit to", [table])]


def _more(interval: Interval, what: str) -> str:
    if interval.low == interval.high == 0:
        return f"{what} is the same for both (n = {interval.n})"
    size = "no different" if interval.value == 0 else "higher" if interval.value > 0 else "lower"
    if interval.value:
        size = f"{abs(100 * interval.value):.1f} points {size}"
    span = f"95 % interval {100 * interval.low:+.1f} to {100 * interval.high:+.1f} points, n = {interval.n}"
    settled = (
        "" if interval.low > 0 or interval.high < 0 else "; the interval contains zero, so the sign is open"
    )
    return f"{what} is {size} ({span}{settled})".replace(" -", " −").replace(" %", NBSP + "%")


def _comparisons(report: Report) -> list[Part]:
    items = []
    for name, comparison in report.results["comparisons"].items():
        other = plain(name.removeprefix("two_step_minus_"))
        test = comparison["top1"]
        text = (
            f"{_more(Interval.from_dict(test), 'Top-1 of two-step')}. Only two-step was right in "
            f"{test['only_first']} cases, only {other} in {test['only_second']} (McNemar exact "
            f"{p_equals(test['mcnemar_p'])}"
        )
        corrected = test.get("p_holm")
        if corrected is not None:
            text += f"; with Holm's correction for all pairs of arms {p_equals(corrected)}"
        text += ")."
        if "concept_micro_f1" in comparison:
            text += f" {_more(Interval.from_dict(comparison['concept_micro_f1']), 'Concept micro F1')}."
        items.append((f"Two-step against {other}.", text))
    if not items:
        return [Text("There is nothing to compare two_step with.")]
    return [Bullets(items), Text("Intervals are not corrected for the number of comparisons.", "soft")]


def _losses(report: Report) -> list[Part]:
    if not report.losses:
        return [Text("The run folder holds no loss logs.")]
    drawn = [[Figure(figures.loss_figure(step, log), STEPS[step])] for step, log in report.losses.items()]
    missing = [step for step in STEPS if step not in report.losses]
    note = [Text(f"No loss log of {' and '.join(missing)}.")] if missing else []
    how = "Thin line: each logged training loss; thick line: its running mean; squares: validation."
    return [Pair(drawn), *note, Text(how, "soft")]


def _confusion(report: Report) -> list[Part]:
    arm, lines = report.leading
    scored = list(lines[0]["class_scores"])
    met = {line["class"] for line in lines} | {best_class(line) for line in lines}
    classes = [name for name in scored if name in met] + sorted(met - set(scored))
    table = confusion([line["class"] for line in lines], [best_class(line) for line in lines], classes)
    wrong = table - np.diag(np.diag(table))
    caption = (
        f"{plain(arm)}: counts; the stronger the blue, the larger the share of the true class. Blank: none."
    )
    drawing = figures.confusion_figure(table, [plain(name) for name in classes])
    worst = [(int(wrong[i, j]), classes[i], classes[j]) for i, j in zip(*np.nonzero(wrong), strict=True)]
    worst = sorted(worst, key=lambda item: (-item[0], item))[:3]
    text = "; ".join(f"{plain(true)} taken for {plain(named)} ({count})" for count, true, named in worst)
    return [
        Figure(drawing, caption, wide=True),
        Text(f"Most frequent confusions: {text}." if worst else "No confusions."),
    ]


def _concepts(report: Report) -> list[Part]:
    arm, lines = report.leading
    concepts = per_concept(*concept_sets(lines))
    if not concepts:
        return [Text("No concept is annotated or named in these cases.")]
    caption = f"{plain(arm)}: F1 of each concept; in brackets the cases that have it. Few cases say little."
    rows: list[Row] = [
        [
            row.concept,
            str(row.support),
            str(row.predicted),
            *(f"{100 * share:.0f}" for share in (row.precision, row.recall, row.f1)),
        ]
        for row in concepts
    ]
    head = ["concept", "cases", "named in", "precision %", "recall %", "F1 %"]
    table = Table("Concepts, most frequent first", head, rows)
    figure = Figure(figures.concepts_figure(concepts), caption)
    return [figure, Details("Precision and recall of each concept", [table])]


def _groups(report: Report) -> list[Part]:
    arm, lines = report.leading
    types = {SKIN_TYPES.get(name, name): share for name, share in by_group(lines, "fitzpatrick").items()}
    by_class = by_group(lines, "class")
    classes = {plain(name): by_class[name] for name in lines[0]["class_scores"] if name in by_class}
    groups: list[list[Part]] = []
    for shares, name, what in ((types, "fitzpatrick", "Fitzpatrick skin type"), (classes, "class", "class")):
        caption = f"{plain(arm)}: top-1 by {what}; at the right, right answers of all."
        rows: list[Row] = [[key, share_cell(share.to_dict()), str(share.n)] for key, share in shares.items()]
        table = Table(f"Top-1 by {what}", [what, "top-1", "n"], rows)
        figure = Figure(figures.groups_figure(shares, name), caption)
        groups.append([figure, Details(f"Numbers by {what}", [table])])
    return [Pair(groups)]


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested facts as one level, `a.b` for b inside a; lists as JSON."""
    facts: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            facts.update(_flat(value, f"{prefix}{key}."))
        else:
            facts[prefix + key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return facts


def _provenance(report: Report) -> list[Part]:
    """The facts of the run, of each arm, of the ratings and of the software, one row each."""
    results = report.results
    rows: list[tuple[str, str]] = [("cases", str(results["num_cases"]))]
    for key, title, form in (
        ("seconds", "duration", "{:.0f} s"),
        ("peak_memory_gb", "peak memory", "{:.2f} GB"),
    ):
        if results[key] is not None:
            rows.append((title, form.format(results[key])))
    rows += _flat(results["provenance"]["run"]).items()
    by_arm = {arm: _flat(meta) for arm, meta in results["provenance"]["arms"].items()}
    for arm, lines in report.arms.items():
        times = [line["seconds"] for line in lines if isinstance(line.get("seconds"), int | float)]
        if times:
            by_arm[arm]["median seconds per case"] = f"{np.median(times):.2f}"
    for key in dict.fromkeys(key for meta in by_arm.values() for key in meta):
        values = {arm: meta[key] for arm, meta in by_arm.items() if key in meta}
        same = len(values) == len(by_arm) and len(set(values.values())) == 1
        each = (
            [next(iter(values.values()))]
            if same
            else [f"{plain(arm)}: {text}" for arm, text in values.items()]
        )
        rows.append((key, "\n".join(each)))
    for name in ("files", "ratings", "statistics"):
        rows += _flat(results["provenance"].get(name, {})).items()
    caption = "Where the numbers come from; one value where all arms share it"
    return [Table(caption, ["fact", "value"], [[plain(key), text] for key, text in rows], "code")]
