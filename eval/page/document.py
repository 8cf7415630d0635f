"""The sections of `report.html`: a run already read and measured into one HTML page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.asking.answers import Run as Answers
from eval.measures.intervals import Interval, Line, best_class, by_group, concept_sets, confusion, per_concept
from eval.page import figures, markup
from eval.page.checklists import checklists_section, facts
from eval.page.consistency import consistency_section
from eval.page.figures import SKIN_TYPES, escape, plain
from eval.page.gallery import NO_CLASS, gallery
from eval.page.markup import provenance
from eval.page.measures import measure_section
from eval.page.ratings import agreement_section, ratings_section
from eval.page.times import time_section
from eval.rating.ratings import Rating

NBSP = "\u00a0"
MEASURES = {
    "top1": "class top-1",
    "top3": "class in top 3",
    "top1_text": "class in text",
    "concept_micro_f1": "concept F1",
}
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


@dataclass(frozen=True)
class Run:
    """All that the page shows; `phantoms` says whether "all", "some" or "none" of the pictures are drawn."""

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


def _measure(data: dict[str, Any] | None, n: int) -> str:
    """A measure of an arm; with its own n where it rests on fewer cases than the arm has."""
    if data is None:
        return "not annotated"
    own = f" <small>n = {data['n']}</small>" if data["n"] != n else ""
    return markup.cell(Interval.from_dict(data)) + own


def _texts(run: Run) -> str:
    """What the written answers commit to, by arm; empty where the answers do not say."""
    counts = {arm: found for arm, found in run.results.get("text_outcomes", {}).items() if found}
    if not counts:
        return ""
    head = [name for name in TEXT_OUTCOMES if any(name in found for found in counts.values())]
    rows = [
        [escape(plain(arm)), *(str(found.get(name, 0)) for name in head)] for arm, found in counts.items()
    ]
    table = markup.table(
        "Answers by what their text says", ["arm", *(TEXT_OUTCOMES[name] for name in head)], rows
    )
    return f"<details><summary>What the written answers commit to</summary>{table}</details>"


def _warning(run: Run) -> str:
    pictures = {
        "all": "; the pictures are rendered phantoms with no clinical meaning",
        "some": "; some of the pictures are rendered phantoms with no clinical meaning",
    }.get(run.phantoms, "")
    return f'<p class="warn" role="note">Research software, not a medical device{pictures}.</p>'


def _summary(run: Run) -> str:
    name, summary = next(iter(run.results["arms"].items()))
    top1, f1 = Interval.from_dict(summary["top1"]), summary.get("concept_micro_f1")
    text = f"The {plain(name)} model puts the right class first in {top1.text()} of the cases; " + (
        f"its concept micro F1 is {Interval.from_dict(f1).text()}." if f1 else "their concepts are unknown."
    )
    text = text.replace(" %", NBSP + "%")
    notes = "".join(f"<li>{escape(note)}</li>" for note in run.notes)
    return f'<p class="lead">{escape(text)}</p>' + (f"<ul>{notes}</ul>" if notes else "")


def _arms(run: Run) -> str:
    arms = run.results["arms"]
    rows = []
    for name, summary in arms.items():
        first = f"{escape(plain(name))} <small>{escape(ARM_NOTES.get(name, ''))}</small>"
        n = summary["top1"]["n"]
        cells = [_measure(summary.get(key), n) for key in MEASURES]
        rows.append([first, *cells, str(n)])
    chance = 1 / len(next(iter(run.arms.values()))[0]["class_scores"])
    caption = "Each measure above its 95 % interval; n is the number of cases"
    picture = figures.arms_figure({plain(name): arm for name, arm in arms.items()}, chance)
    figure = markup.figure(
        picture,
        f"Circles: top-1. Squares: concept micro F1. Dotted: one of {round(1 / chance)} classes by chance.",
    )
    return markup.table(caption, ["arm", *MEASURES.values(), "n"], rows) + _texts(run) + figure


def _more(interval: Interval, what: str) -> str:
    if interval.low == interval.high == 0:
        return f"{what} is the same for both (n = {interval.n})"
    size = "no different" if interval.value == 0 else "higher" if interval.value > 0 else "lower"
    if interval.value:
        size = f"{abs(100 * interval.value):.1f} points {size}"
    span = f"95 % interval {100 * interval.low:+.1f} to {100 * interval.high:+.1f} points, n = {interval.n}"
    settled = (
        "" if interval.low > 0 or interval.high < 0 else "; the interval holds zero, so the sign is open"
    )
    return f"{what} is {size} ({span}{settled})".replace(" -", " −").replace(" %", NBSP + "%")


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _comparisons(run: Run) -> str:
    items = []
    for name, comparison in run.results["comparisons"].items():
        other = plain(name.removeprefix("two_step_minus_"))
        top1 = Interval.from_dict(comparison["top1"])
        test = comparison["top1"]
        p = _p(test["mcnemar_p"])
        text = (
            f"{_more(top1, 'Top-1 of two-step')}. Only two-step was right in {test['only_first']} cases, "
            f"only {other} in {test['only_second']} (McNemar exact {p}"
        )
        corrected = test.get("p_holm")
        if corrected is not None:
            text += f"; with Holm's correction for all pairs of arms {_p(corrected)}"
        text += ")."
        if "concept_micro_f1" in comparison:
            f1 = Interval.from_dict(comparison["concept_micro_f1"])
            text += f" {_more(f1, 'Concept micro F1')}."
        items.append(f"<li><strong>Two-step against {escape(other)}.</strong> {escape(text)}</li>")
    if not items:
        return "<p>There is nothing to compare two_step with.</p>"
    caution = "Intervals are not corrected for the number of comparisons."
    return f'<ul>{"".join(items)}</ul><p class="soft">{caution}</p>'


def _losses(run: Run) -> str:
    if not run.losses:
        return "<p>The run folder holds no loss logs.</p>"
    missing = [step for step in ("step1", "step2") if step not in run.losses]
    note = f"<p>No loss log of {escape(' and '.join(missing))}.</p>" if missing else ""
    drawn = "".join(
        markup.figure(figures.loss_figure(step, log), STEPS[step]) for step, log in run.losses.items()
    )
    return (
        f'<div class="pair">{drawn}</div>{note}'
        '<p class="soft">Thin line: each logged training loss; thick line: its running mean; squares: '
        "validation.</p>"
    )


def _leading(run: Run) -> tuple[str, list[Line]]:
    # two_step where there is one: load_answers puts it first.
    return next(iter(run.arms.items()))


def _confusion(run: Run) -> str:
    arm, lines = _leading(run)
    scored = list(lines[0]["class_scores"])
    met = {line["class"] for line in lines} | {best_class(line) for line in lines}
    classes = [name for name in scored if name in met] + sorted(met - set(scored))
    table = confusion([line["class"] for line in lines], [best_class(line) for line in lines], classes)
    wrong = table - np.diag(np.diag(table))
    caption = (
        f"{plain(arm)}: counts; the stronger the blue, the larger the share of the true class. Blank: none."
    )
    picture = markup.figure(
        figures.confusion_figure(table, [plain(name) for name in classes]), caption, wide=True
    )
    worst = [(int(wrong[i, j]), classes[i], classes[j]) for i, j in zip(*np.nonzero(wrong), strict=True)]
    worst = sorted(worst, key=lambda item: (-item[0], item))[:3]
    text = "; ".join(f"{plain(true)} taken for {plain(named)} ({count})" for count, true, named in worst)
    return picture + (
        f"<p>Most frequent confusions: {escape(text)}.</p>" if worst else "<p>No confusions.</p>"
    )


def _concepts(run: Run) -> str:
    arm, lines = _leading(run)
    rows = per_concept(*concept_sets(lines))
    if not rows:
        return "<p>No concept is annotated or named in these cases.</p>"
    caption = f"{plain(arm)}: F1 of each concept; in brackets the cases that have it. Few cases say little."
    cells = [
        [
            escape(row.concept),
            row.support,
            row.predicted,
            *(f"{100 * x:.0f}" for x in (row.precision, row.recall, row.f1)),
        ]
        for row in rows
    ]
    head = ["concept", "cases", "named in", "precision %", "recall %", "F1 %"]
    table = markup.table(
        "Concepts, most frequent first", head, [[str(cell) for cell in row] for row in cells]
    )
    details = f"<details><summary>Precision and recall of each concept</summary>{table}</details>"
    return markup.figure(figures.concepts_figure(rows), caption) + details


def _groups(run: Run) -> str:
    arm, lines = _leading(run)
    types = by_group(lines, "fitzpatrick")
    types = {SKIN_TYPES.get(name, name): value for name, value in types.items()}
    found = by_group(lines, "class")
    classes = {plain(name): found[name] for name in lines[0]["class_scores"] if name in found}
    parts = []
    for groups, name, what in ((types, "fitzpatrick", "Fitzpatrick skin type"), (classes, "class", "class")):
        caption = f"{plain(arm)}: top-1 by {what}; at the right, right answers of all."
        rows = [[escape(key), markup.cell(interval), str(interval.n)] for key, interval in groups.items()]
        table = markup.table(f"Top-1 by {what}", [what, "top-1", "n"], rows)
        details = f"<details><summary>Numbers by {what}</summary>{table}</details>"
        parts.append(f"<div>{markup.figure(figures.groups_figure(groups, name), caption)}{details}</div>")
    return f'<div class="pair">{"".join(parts)}</div>'


METHOD = """
Every case is asked two questions, each in a fresh conversation: one for the concepts, one for the
diagnosis. Right class (top-1) does not read the text: every class is scored by the log-probability that
the model gives to an answer naming it, and the best-scored class must be the true one; for top 3 the true
one must be among the best three. Right class in the text reads the class off the written answer with the
project's list of disease names and phrases: the disease must be asserted, not ruled out or only weighed; an
answer that asserts none, or diseases of several classes, counts as wrong. Concepts are measured on the cases
whose concepts are known. Concept micro F1 pools all (case, concept) pairs: twice the
concepts rightly named, divided by those named plus those annotated, 0 where there are neither. Shares
have Wilson 95 % intervals. F1 and all differences have percentile bootstrap intervals over whole cases;
in a difference both arms are computed on the same drawn cases. McNemar's exact test looks at the cases
that only one arm got right. The intervals speak of the sampling of cases, not of training again with
another seed; where no case differs a bootstrap interval has no width.
"""


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


def _in_order(run: Run) -> dict[str, Any]:
    """What is known of the arms' consistency, in the order of the page."""
    found = run.results.get("consistency") or {}
    return {arm: found[arm] for arm in run.arms if arm in found}


def _sections(run: Run) -> dict[str, str]:
    """The HTML of every section of TITLES."""
    rated = run.results.get("ratings") or {}
    known = facts(run.answers, run.results, len(run.losses))
    return {
        "arms": _arms(run),
        "comparisons": _comparisons(run),
        "ratings": ratings_section(rated, run.printed),
        "agreement": agreement_section(rated),
        "times": time_section(run.answers, list(run.arms), run.ratings, run.printed),
        "consistency": consistency_section(_in_order(run)),
        "losses": _losses(run),
        "measures": measure_section(run.results["arms"]),
        "confusion": _confusion(run),
        "concepts": _concepts(run),
        "groups": _groups(run),
        "gallery": gallery(run.arms, run.image_dir, run.chosen),
        "method": f"<p>{escape(METHOD.strip())}</p>",
        "checklists": checklists_section(known, TITLES),
        "provenance": provenance(run.results, run.arms),
    }


def render(run: Run) -> str:
    """The whole page: no script, and nothing that would be loaded from elsewhere."""
    body = "".join(
        f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{TITLES[key]}</h2>{text}</section>'
        for key, text in _sections(run).items()
    )
    links = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, title in TITLES.items())
    contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>'
    title = f"Evaluation of {escape(run.name)}"
    # The policy lets a browser prove the page self-contained: it may load nothing at all.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{figures.CSS}</style></head><body><main><header><h1>{title}</h1>"
        f"{_warning(run)}{_summary(run)}{contents}</header>{body}</main></body></html>\n"
    )
