"""The sections of `report.html`: a run already read and measured into one HTML page."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval import figures
from eval.figures import SKIN_TYPES, escape, plain
from eval.gallery import NO_CLASS, gallery
from eval.metrics import Interval, Line, best_class, by_group, concept_sets, confusion, per_concept

NBSP = "\u00a0"
MEASURES = {
    "top1": "class top-1",
    "top3": "class in top 3",
    "top1_text": "class in text",
    "concept_micro_f1": "concept F1",
}
# What the text of an answer does, in the terms of skingpt4/taxonomy.py.
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


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column heads its rows. Cells are HTML already; caption and head are text."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head).replace("top-1", "top\u20111")
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f'<td class="number">{c}</td>' for c in rest) + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _figure(svg: str, caption: str, wide: bool = False) -> str:
    region = f' tabindex="0" role="region" aria-label="{escape(caption)}"'
    body = f'<div class="scroll"{region}>{svg}</div>' if wide else svg
    return f"<figure{' class=wide' if wide else ''}>{body}<figcaption>{escape(caption)}</figcaption></figure>"


def _cell(interval: Interval) -> str:
    """Share over interval; n stands in a column of its own."""
    share, rest = interval.text().split(" (", 1)
    return f"{escape(share)} <small>{escape(rest.split(',')[0])}</small>"


def _measure(data: dict[str, Any] | None, n: int) -> str:
    """A measure of an arm; with its own n where it rests on fewer cases than the arm has."""
    if data is None:
        return "not annotated"
    own = f" <small>n = {data['n']}</small>" if data["n"] != n else ""
    return _cell(Interval.from_dict(data)) + own


def _texts(run: Run) -> str:
    """What the written answers commit to, by arm; empty where the answers do not say."""
    counts = {arm: found for arm, found in run.results.get("text_outcomes", {}).items() if found}
    if not counts:
        return ""
    head = [name for name in TEXT_OUTCOMES if any(name in found for found in counts.values())]
    rows = [
        [escape(plain(arm)), *(str(found.get(name, 0)) for name in head)] for arm, found in counts.items()
    ]
    table = _table("Answers by what their text says", ["arm", *(TEXT_OUTCOMES[name] for name in head)], rows)
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
    figure = _figure(
        picture,
        f"Circles: top-1. Squares: concept micro F1. Dotted: one of {round(1 / chance)} classes by chance.",
    )
    return _table(caption, ["arm", *MEASURES.values(), "n"], rows) + _texts(run) + figure


def _more(interval: Interval, what: str) -> str:
    size = "no different" if interval.value == 0 else "higher" if interval.value > 0 else "lower"
    if interval.value:
        size = f"{abs(100 * interval.value):.1f} points {size}"
    span = f"95 % interval {100 * interval.low:+.1f} to {100 * interval.high:+.1f} points, n = {interval.n}"
    settled = (
        "" if interval.low > 0 or interval.high < 0 else "; the interval holds zero, so the sign is open"
    )
    return f"{what} is {size} ({span}{settled})".replace(" -", " −").replace(" %", NBSP + "%")


def _comparisons(run: Run) -> str:
    items = []
    for name, comparison in run.results["comparisons"].items():
        other = plain(name.removeprefix("two_step_minus_"))
        top1 = Interval.from_dict(comparison["top1"])
        test = comparison["top1"]
        p = "p < 0.001" if test["mcnemar_p"] < 0.001 else f"p = {test['mcnemar_p']:.3f}"
        text = (
            f"{_more(top1, 'Top-1 of two-step')}. Only two-step was right in {test['only_first']} cases, "
            f"only {other} in {test['only_second']} (McNemar exact {p})."
        )
        if "concept_micro_f1" in comparison:
            f1 = Interval.from_dict(comparison["concept_micro_f1"])
            text += f" {_more(f1, 'Concept micro F1')}."
        items.append(f"<li><strong>Two-step against {escape(other)}.</strong> {escape(text)}</li>")
    if not items:
        return "<p>There is nothing to compare two_step with.</p>"
    caution = "Intervals and p are not corrected for the number of comparisons."
    return f'<ul>{"".join(items)}</ul><p class="soft">{caution}</p>'


def _losses(run: Run) -> str:
    if not run.losses:
        return "<p>The run folder holds no loss logs.</p>"
    missing = [step for step in ("step1", "step2") if step not in run.losses]
    note = f"<p>No loss log of {escape(' and '.join(missing))}.</p>" if missing else ""
    drawn = "".join(_figure(figures.loss_figure(step, log), STEPS[step]) for step, log in run.losses.items())
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
    picture = _figure(figures.confusion_figure(table, [plain(name) for name in classes]), caption, wide=True)
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
    table = _table("Concepts, most frequent first", head, [[str(cell) for cell in row] for row in cells])
    details = f"<details><summary>Precision and recall of each concept</summary>{table}</details>"
    return _figure(figures.concepts_figure(rows), caption) + details


def _groups(run: Run) -> str:
    arm, lines = _leading(run)
    types = by_group(lines, "fitzpatrick")
    types = {SKIN_TYPES.get(name, name): value for name, value in types.items()}
    found = by_group(lines, "class")
    classes = {plain(name): found[name] for name in lines[0]["class_scores"] if name in found}
    parts = []
    for groups, name, what in ((types, "fitzpatrick", "Fitzpatrick skin type"), (classes, "class", "class")):
        caption = f"{plain(arm)}: top-1 by {what}; at the right, right answers of all."
        rows = [[escape(key), _cell(interval), str(interval.n)] for key, interval in groups.items()]
        table = _table(f"Top-1 by {what}", [what, "top-1", "n"], rows)
        details = f"<details><summary>Numbers by {what}</summary>{table}</details>"
        parts.append(f"<div>{_figure(figures.groups_figure(groups, name), caption)}{details}</div>")
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


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested facts as one level, `a.b` for b inside a; lists as JSON."""
    flat: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def _provenance(run: Run) -> str:
    results = run.results
    rows: list[tuple[str, str]] = [("cases", str(results["num_cases"]))]
    for key, title, form in (
        ("seconds", "duration", "{:.0f} s"),
        ("peak_memory_gb", "peak memory", "{:.2f} GB"),
    ):
        if results[key] is not None:
            rows.append((title, form.format(results[key])))
    rows += _flat(results["provenance"]["run"]).items()
    facts = {arm: _flat(meta) for arm, meta in results["provenance"]["arms"].items()}
    for arm, lines in run.arms.items():
        times = [line["seconds"] for line in lines if isinstance(line.get("seconds"), int | float)]
        if times:
            facts[arm]["median seconds per case"] = f"{np.median(times):.2f}"
    for key in dict.fromkeys(key for meta in facts.values() for key in meta):
        values = {arm: meta[key] for arm, meta in facts.items() if key in meta}
        same = len(values) == len(facts) and len(set(values.values())) == 1
        text = (
            next(iter(values.values())) if same else "\n".join(f"{plain(a)}: {v}" for a, v in values.items())
        )
        rows.append((key, text))
    rows += _flat(results["provenance"]["statistics"]).items()
    body = "".join(
        f'<tr><th scope="row">{escape(plain(key))}</th>'
        f"<td>{'<br>'.join(f'<code>{escape(part)}</code>' for part in text.split(chr(10)))}</td></tr>"
        for key, text in rows
    )
    head = '<thead><tr><th scope="col">fact</th><th scope="col">value</th></tr></thead>'
    caption = "<caption>Where the numbers come from; one value where all arms share it</caption>"
    return f'<div class="scroll"><table>{caption}{head}<tbody>{body}</tbody></table></div>'


def render(run: Run) -> str:
    """The whole page: no script, and nothing that would be loaded from elsewhere."""
    sections = {
        "arms": ("Results of every arm", _arms(run)),
        "comparisons": ("Paired comparisons", _comparisons(run)),
        "losses": ("Losses of both steps", _losses(run)),
        "confusion": ("Which class is taken for which", _confusion(run)),
        "concepts": ("Concepts", _concepts(run)),
        "groups": ("By skin type and by class", _groups(run)),
        "gallery": ("Cases", gallery(run.arms, run.image_dir)),
        "method": ("How the measures are computed", f"<p>{escape(METHOD.strip())}</p>"),
        "provenance": ("Provenance", _provenance(run)),
    }
    body = "".join(
        f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{title}</h2>{text}</section>'
        for key, (title, text) in sections.items()
    )
    title = f"Evaluation of {escape(run.name)}"
    # The policy lets a browser prove the page self-contained: it may load nothing at all.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{figures.CSS}</style></head><body><main><header><h1>{title}</h1>"
        f"{_warning(run)}{_summary(run)}</header>{body}</main></body></html>\n"
    )
