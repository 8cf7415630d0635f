"""The sections about the arms: the headline measures of each, what each is, and what its answers cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.measures.intervals import Line
from eval.measures.results import HEADLINE
from eval.page.data import Report
from eval.page.figures.measures import arms_figure
from eval.page.parts import (
    NOTHING,
    Cell,
    Details,
    Figure,
    Part,
    Row,
    Table,
    Text,
    number_cell,
    plain,
    share_cell,
)
from eval.page.sections.gallery import NO_CLASS

# What the text of an answer does, in the terms of skingpt4/taxonomy/taxonomy.py.
TEXT_OUTCOMES = {"asserted": "asserts a class", **NO_CLASS}
ARM_NOTES = {
    "two_step": "concepts, then diagnoses",
    "step1_only": "concepts only",
    "step2_only": "diagnoses only",
    "untrained": "projection as initialised",
    "blank_image": "is shown a blank picture",
    "noise_image": "is shown noise",
    "other_image": "is shown another case's picture",
}
KINDS = {
    "projection": "projection of this project",
    "endpoint": "model behind a server",
    "transformers": "vision-language model",
    "contrastive": "image-text encoder, zero-shot",
    "probe": "classifier on an encoder's features",
    "import": "imported answers",
}
CLOSED_SETS = {
    "logprobs": "log-probabilities",
    "list in the prompt": "choice from a list in the prompt",
    "free text": "read from the free text",
    "embeddings": "similarity of embeddings",
    "probe": "probability of the classifier",
}
OUR_CLOSED_SET = "log-probabilities of sentences"
MISSING = "A dash says that an arm has no such answers; below it stands why. It is never counted as zero."
COST = (
    "Seconds and tokens are those of one answer, median and mean, with 95 % intervals (bootstrap over "
    "cases); decoded together: the largest number of answers at the same time, which slows each of them. "
    "Seconds of imported answers are as imported. Memory: the peak of the process that answered, where it "
    "was recorded."
)


def note_of(report: Report, unit: str) -> str:
    """A few words about an arm or group of trainings."""
    if unit in report.groups:
        number = len(report.groups[unit])
        return f"{number} trainings" if number > 1 else "1 training"
    kind = report.kind(unit)
    return ARM_NOTES.get(unit, "" if kind == "projection" else KINDS.get(kind, kind))


def why_missing(measure: str, lines: Sequence[Line]) -> str:
    """Why an arm has no such measure, for the small print of a cell."""
    if measure in ("top1", "top3"):
        return (
            "one choice, no order" if any("listed_class" in line for line in lines) else "classes not scored"
        )
    if measure == "top1_text":
        return "no text read for a class"
    return (
        "concepts not named" if not any("predicted_concepts" in line for line in lines) else "not annotated"
    )


def missing(reason: str) -> Cell:
    """A dash with its reason."""
    return Cell(NOTHING, (reason,))


def headline_cell(report: Report, unit: str, measure: str, n: int | None = None) -> Cell:
    """A headline measure with its interval; with its own n where that is not `n`."""
    figure = report.units()[unit].get(measure)
    if figure is None:
        return missing(why_missing(measure, report.arms[report.groups.get(unit, [unit])[0]]))
    cell = share_cell(figure)
    small = list(cell.small)
    if figure.get("between_sd") is not None:
        small.append(f"SD of trainings {100 * figure['between_sd']:.1f}")
    return Cell(cell.text, (*small, *([f"n = {figure['n']}"] if figure["n"] != n else [])))


def arms_parts(report: Report) -> list[Part]:
    """Headline measures of every arm, as a table and as a figure."""
    rows: list[Row] = []
    for unit in report.units():
        n = len(report.arms[report.groups.get(unit, [unit])[0]])
        note = note_of(report, unit)
        cells = [headline_cell(report, unit, measure, n) for measure in HEADLINE]
        rows.append([Cell(plain(unit), (note,) if note else ()), *cells, str(n)])
    table = Table(
        "Each measure above its 95 % interval; n is the number of cases",
        ["arm", *HEADLINE.values(), "n"],
        rows,
    )
    return [table, *_text_outcomes(report), _figure(report), Text(MISSING, "soft")]


def _figure(report: Report) -> Figure:
    scored = report.leading("class_scores")
    num_classes = len(scored[1][0]["class_scores"]) if scored else len(report.answers.task.classes)
    drawing = arms_figure(
        {plain(name): unit for name, unit in report.units().items()}, 1 / num_classes if num_classes else None
    )
    caption = "Circles: top-1. Triangles: class in text. Squares: concept micro F1."
    caption += f" Dotted: one of {num_classes} classes by chance." if num_classes else ""
    return Figure(drawing, caption)


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


def cards_parts(report: Report) -> list[Part]:
    """What each arm is and where it ran, and what its answers cost."""
    head = ["arm", "kind", "model", "version", "classes by", "precision", "ran on", "asked"]
    rows: list[Row] = [[plain(arm), *_card(report.meta(arm), report.kind(arm))] for arm in report.arms]
    cards = Table("Every arm, as its meta file describes it", head, rows, "words")
    head = [
        "arm",
        "seconds, first answer",
        "seconds, last answer",
        "tokens, first answer",
        "decoded together",
        "memory",
    ]
    cost = Table("Cost of an answer", head, [[plain(arm), *_cost(report, arm)] for arm in report.arms])
    return [cards, cost, Text(COST, "soft")]


def version_of(meta: Mapping[str, Any]) -> str | None:
    """The hash or revision by which a meta file identifies what answered."""
    keys = ("checkpoint_sha256", "revision", "sha256", "answers_sha256", "features")
    return next((str(meta[key]) for key in keys if meta.get(key)), None)


def _card(meta: Mapping[str, Any], kind: str) -> list[Cell | str]:
    """The cells of an arm's card."""
    closed_set, version = meta.get("closed_set"), version_of(meta)
    if kind == "projection":
        by = OUR_CLOSED_SET
        model = f"{meta.get('language_model') or ''}".rsplit("/", 1)[-1]
        small = tuple(str(meta[key]) for key in ("checkpoint", "step") if meta.get(key))
    else:
        by = CLOSED_SETS.get(str(closed_set), "not scored" if closed_set is None else str(closed_set))
        model = str(meta.get("model") or meta.get("system") or "")
        served = meta.get("served_model")
        small = (f"served as {served}",) if served and served != model else ()
    asked = [
        f"{len(meta[key])} {word}{'s' * (len(meta[key]) > 1)}"
        for key, word in (("prompts", "prompt"), ("probes", "question"))
        if meta.get(key)
    ]
    precision = ", ".join(str(meta[key]) for key in ("precision", "quantization") if meta.get(key))
    return [
        KINDS.get(kind, kind),
        Cell(model, small) if model else missing("not stated"),
        version[:12] if version else missing("not stated"),
        by if kind != "import" or closed_set else missing("not scored"),
        precision or missing("not stated"),
        _place(meta),
        ", ".join(asked) or "no text",
    ]


def _place(meta: Mapping[str, Any]) -> Cell | str:
    hardware = meta.get("hardware") or {}
    device = meta.get("device") or hardware.get("device")
    if not device:
        return missing("not stated")
    versions = [f"{name} {hardware[name]}" for name in ("torch", "transformers") if hardware.get(name)]
    return Cell(str(device), (", ".join(versions),) if versions else ())


def _cost(report: Report, arm: str) -> list[Cell | str]:
    answers = report.results["arms"][arm].get("answers", {})
    turns = [figures for name, figures in answers.items() if name.startswith("turn")]
    answered = report.answers.arms[arm]
    together = [n for a in answered.lines.values() if (n := a.fields.get("num_decoded_together"))]
    memory = answered.meta.get("usage", {}).get("peak_memory_bytes")
    if not turns:
        reason = "writes no text" if not answers else "no conversation"
        cells: list[Cell | str] = [missing(reason)] * 3
    else:
        ends = ((turns[0], "seconds"), (turns[-1], "seconds"), (turns[0], "tokens"))
        cells = [
            number_cell(figures[key]) if key in figures else missing("not recorded") for figures, key in ends
        ]
    return [
        *cells,
        str(max(together)) if together else missing("not recorded"),
        f"{memory / 2**30:.2f} GiB" if memory else missing("not recorded"),
    ]
