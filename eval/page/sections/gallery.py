"""The cases shown in the report: picture, truth and every arm's answers side by side, chosen by rule."""

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.measures.intervals import Line as AnswerLine
from eval.measures.intervals import best_class, has_choice
from eval.page.data import Report
from eval.page.parts import SKIN_TYPES, Case, Column, Line, Part, Picture, SideBySide, Span, Text, plain
from skingpt4.records.images import ImageError, open_image
from skingpt4.records.naming import image_path

GALLERY_SIZE, LONG_ANSWER = 12, 320
# Why a written answer commits to no class, by its outcome (skingpt4/taxonomy/taxonomy.py).
NO_CLASS = {
    "ambiguous": "several classes",
    "no_class": "a disease of no class",
    "mentioned": "only weighs diseases",
    "negated": "only rules out",
    "unknown": "no known disease",
}
RULE = (
    "chosen by rule and not by result: the first answered case of each class, in the order of the "
    "classes, then the second of each, until the page is full"
)
HOW = (
    "✓ marks what is right, ✗ what is wrong; 1. and 2. are the answers to the two questions, each asked "
    "in a new conversation. The conversation below them goes through the four published prompts; each "
    "prompt sees the answers before it."
)


def gallery_cases(lines: Sequence[AnswerLine], classes: Sequence[str] = ()) -> list[AnswerLine]:
    """The first case of each class, class by class in the order of the scores, then each second one, ...

    `classes` is the order where the lines have no scores.
    """
    order = {name: place for place, name in enumerate(lines[0].get("class_scores", classes))}
    seen: Counter[str] = Counter()
    keyed = []
    for line in lines:
        keyed.append(((seen[line["class"]], order.get(line["class"], len(order))), line))
        seen[line["class"]] += 1
    return [line for _, line in sorted(keyed, key=lambda item: item[0])[:GALLERY_SIZE]]


def gallery_parts(report: Report) -> list[Part]:
    """Each case with its picture, the truth, and what each arm answered, arm beside arm (figure 3).

    Of a group of trainings the first stands for all. Cases of `--show`, else those of `gallery_cases`.
    """
    by_id = answers_by_case(report)
    first = next(iter(report.arms.values()))
    ids = report.chosen or [line["case_id"] for line in gallery_cases(first, report.answers.task.classes)]
    cases = [case_part(report, by_id[name]) for name in ids]
    how = "chosen by hand" if report.chosen else RULE
    text = f"{len(cases)} case{'s' * (len(cases) > 1)} {how}. {HOW}"
    if report.groups:
        text += " Of each group of trainings the first is shown."
    return [Text(text), *cases]


def answers_by_case(report: Report) -> dict[str, dict[str, AnswerLine | None]]:
    """Case -> arm -> its line, None where the arm has not answered the case; one arm of each group of trainings."""
    shown = [report.groups.get(unit, [unit])[0] for unit in report.units()]
    by_arm = {arm: {line["case_id"]: line for line in report.arms[arm]} for arm in shown}
    answered = {name for lines in by_arm.values() for name in lines}
    return {
        name: {arm: lines.get(name) for arm, lines in by_arm.items()}
        for name in report.answers.cases
        if name in answered
    }


def case_part(report: Report, answers: dict[str, AnswerLine | None], complete: bool = False) -> Case:
    """A case with the answers of every arm.

    Args:
        report: whose pictures and settings are used.
        answers: of `answers_by_case`.
        complete: long answers are neither cut nor folded.
    """
    line = next(answer for answer in answers.values() if answer is not None)
    title = f"{plain(line['class'] or 'case')}: {line.get('disease') or 'disease not given'}"
    concepts = "unknown" if line["concepts"] is None else ", ".join(line["concepts"]) or "none annotated"
    skin_type = line.get("fitzpatrick")
    asked = next((asks for a in answers.values() if a and (asks := [t["question"] for t in a["turns"]])), [])
    facts = {
        "annotated concepts": concepts,
        "Fitzpatrick type": "unknown"
        if skin_type in (None, -1)
        else str(SKIN_TYPES.get(str(skin_type), skin_type)),
        "case": line["case_id"],
        **{f"question {number}": question for number, question in enumerate(asked, start=1)},
    }
    limit = None if complete else LONG_ANSWER
    columns = [_column(name, answer, asked, limit) for name, answer in answers.items()]
    picture = None
    if report.with_pictures:
        picture = _picture(image_path(report.image_dir, line["image"]), f"{title}; concepts: {concepts}")
    note = "" if picture else "picture not found" if report.with_pictures else "picture left out"
    return Case(title, picture, facts, SideBySide(columns), _conversation(answers, limit), note)


def _picture(path: Path, alt: str) -> Picture | None:
    """A small copy of the picture, encoded again so that no camera data travels with the page; None: not found."""
    try:
        image = open_image(path)
    except ImageError:
        return None
    image.thumbnail((360, 360))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    return Picture(buffer.getvalue(), image.width, image.height, alt)


def _mark(right: bool, word: str) -> Span:
    return Span(f"✓\u00a0{word}", "right") if right else Span(f"✗\u00a0{word}", "wrong")


def _column(arm: str, line: AnswerLine | None, asked: Sequence[str], limit: int | None) -> Column:
    """What one arm answered: its class, the class in its text, its concepts and its texts, as far as it has them."""
    if line is None:
        return Column(plain(arm), [Line([Span("not answered")])])
    lines = []
    if has_choice(line):
        best = best_class(line)
        right = best == line["class"]
        name = plain(best) if best else "none of the list"
        lines.append(Line([_mark(right, "right" if right else "wrong"), Span(f": {name}")]))
    if "text_class" in line:
        text_class = line["text_class"]
        in_text = (
            NO_CLASS.get(line.get("text_outcome", ""), "no class named")
            if text_class is None
            else plain(text_class)
        )
        marked = _mark(text_class == line["class"], in_text)
        lines.append(Line([Span("in its text:", "soft"), Span(" "), marked]))
    if "predicted_concepts" in line:
        lines.append(Line([Span("concepts:", "soft"), Span(" "), *_concepts(line)]))
    for number, turn in enumerate(line["turns"], start=1):
        question = turn.get("question", "")
        if question not in asked[number - 1 : number]:  # this arm was asked something else
            lines.append(Line([Span(question, "soft")]))
        lines.append(_answer(turn["answer"], limit, [Span(f"{number}.", "soft"), Span(" ")]))
    return Column(plain(arm), lines or [Line([Span("no single answers", "soft")])])


def _concepts(line: AnswerLine) -> list[Span]:
    """The concepts that an answer names, each marked where the truth is known, and those that it misses."""
    named = set(line["predicted_concepts"])
    if line["concepts"] is None:
        return [Span(", ".join(sorted(named)) or "none named")]
    true = set(line["concepts"])
    spans: list[Span] = []
    for concept in sorted(named):
        spans += [*([Span(", ")] if spans else []), _mark(concept in true, concept)]
    missed = f"; missed: {', '.join(sorted(true - named))}" if true - named else ""
    return [*(spans or [Span("none named")]), Span(missed)]


def _conversation(answers: dict[str, AnswerLine | None], limit: int | None) -> list[tuple[str, SideBySide]]:
    """The conversation of every arm that held one, prompt by prompt and arm beside arm; empty where none did."""
    turns = {arm: line["conversation"] for arm, line in answers.items() if line and line.get("conversation")}
    prompts: list[dict[str, Any]] = max(turns.values(), key=len, default=[])
    prompted = []
    for number, prompt in enumerate(prompts, start=1):
        columns = []
        for arm, each in turns.items():
            answered = [turn for turn in each if turn["number"] == number]
            lines = [_answer(turn["answer"], limit) for turn in answered]
            if answered and answered[0]["question"] != prompt["question"]:
                lines.insert(0, Line([Span(f"asked: {answered[0]['question']}", "soft")]))
            columns.append(Column(plain(arm), lines or [Line([Span("not answered", "soft")])]))
        prompted.append((f"Prompt {number}: {prompt['question']}", SideBySide(columns, level=5)))
    return prompted


def _answer(text: str, limit: int | None, before: Sequence[Span] = ()) -> Line:
    """An answer behind these spans; one longer than the limit is cut and folded."""
    text = text.strip() or "(no text)"
    if limit is None or len(text) <= limit:
        return Line([*before, Span(text)])
    return Line([*before, Span(f"{text[:limit].rsplit(' ', 1)[0]} …")], full=text)
