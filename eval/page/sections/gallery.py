"""The cases shown in the report: picture, truth and every arm's answers side by side, chosen by rule."""

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.measures.intervals import Line as AnswerLine
from eval.measures.intervals import best_class
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


def gallery_cases(lines: Sequence[AnswerLine]) -> list[AnswerLine]:
    """The first case of each class, class by class in the order of the scores, then each second one, ..."""
    order = {name: place for place, name in enumerate(lines[0]["class_scores"])}
    seen: Counter[str] = Counter()
    keyed = []
    for line in lines:
        keyed.append(((seen[line["class"]], order.get(line["class"], len(order))), line))
        seen[line["class"]] += 1
    return [line for _, line in sorted(keyed, key=lambda item: item[0])[:GALLERY_SIZE]]


def gallery_parts(
    arms: dict[str, list[AnswerLine]], image_dir: Path, chosen: Sequence[str] = ()
) -> list[Part]:
    """Each case with its picture, the truth, and what each arm answered, arm beside arm.

    Args:
        arms: their lines.
        image_dir: what the pictures' paths are relative to.
        chosen: ids of cases that the first arm answered; none takes those of `gallery_cases`.
    """
    by_id = {name: {line["case_id"]: line for line in answers} for name, answers in arms.items()}
    first = next(iter(by_id.values()))
    lines = [first[name] for name in chosen] or gallery_cases(next(iter(arms.values())))
    cases = [
        _case(line, {name: answers.get(line["case_id"]) for name, answers in by_id.items()}, image_dir)
        for line in lines
    ]
    how = "chosen by hand" if chosen else RULE
    return [Text(f"{len(cases)} case{'s' * (len(cases) > 1)} {how}. {HOW}"), *cases]


def _case(line: AnswerLine, answers: dict[str, AnswerLine | None], image_dir: Path) -> Case:
    title = f"{plain(line['class'])}: {line.get('disease') or 'disease not given'}"
    concepts = "unknown" if line["concepts"] is None else ", ".join(line["concepts"]) or "none annotated"
    skin_type = line.get("fitzpatrick")
    asked = [turn.get("question", "") for turn in line["turns"]]
    facts = {
        "annotated concepts": concepts,
        "Fitzpatrick type": "unknown"
        if skin_type in (None, -1)
        else str(SKIN_TYPES.get(str(skin_type), skin_type)),
        "case": line["case_id"],
        **{f"question {number}": question for number, question in enumerate(asked, start=1)},
    }
    columns = [_column(name, answer, asked) for name, answer in answers.items()]
    picture = _picture(image_path(image_dir, line["image"]), f"{title}; concepts: {concepts}")
    return Case(title, picture, facts, SideBySide(columns), _conversation(answers))


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


def _column(arm: str, line: AnswerLine | None, asked: Sequence[str]) -> Column:
    """What one arm answered: its best-scored class, the class in its text, its concepts and its texts."""
    if line is None:
        return Column(plain(arm), [Line([Span("not answered")])])
    best, text_class = best_class(line), line["text_class"]
    in_text = (
        NO_CLASS.get(line.get("text_outcome", ""), "no class named")
        if text_class is None
        else plain(text_class)
    )
    right = best == line["class"]
    lines = [
        Line([_mark(right, "right" if right else "wrong"), Span(f": {plain(best)}")]),
        Line([Span("in its text:", "soft"), Span(" "), _mark(text_class == line["class"], in_text)]),
        Line([Span("concepts:", "soft"), Span(" "), *_concepts(line)]),
    ]
    for number, turn in enumerate(line["turns"], start=1):
        question = turn.get("question", "")
        if question not in asked[number - 1 : number]:  # this arm was asked something else
            lines.append(Line([Span(question, "soft")]))
        lines.append(_answer(turn["answer"], [Span(f"{number}.", "soft"), Span(" ")]))
    return Column(plain(arm), lines)


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


def _conversation(answers: dict[str, AnswerLine | None]) -> list[tuple[str, SideBySide]]:
    """The conversation of every arm, prompt by prompt and arm beside arm; empty where none was held."""
    turns = {arm: line.get("conversation", []) for arm, line in answers.items() if line is not None}
    prompts: list[dict[str, Any]] = next((each for each in turns.values() if each), [])
    prompted = []
    for number, prompt in enumerate(prompts, start=1):
        columns = []
        for arm, each in turns.items():
            lines = [_answer(turn["answer"]) for turn in each[number - 1 : number]]
            columns.append(Column(plain(arm), lines or [Line([Span("not answered")])]))
        prompted.append((f"Prompt {number}: {prompt['question']}", SideBySide(columns, level=5)))
    return prompted


def _answer(text: str, before: Sequence[Span] = ()) -> Line:
    """An answer behind these spans; a long one is cut and folded."""
    text = text.strip() or "(no text)"
    if len(text) <= LONG_ANSWER:
        return Line([*before, Span(text)])
    return Line([*before, Span(f"{text[:LONG_ANSWER].rsplit(' ', 1)[0]} …")], full=text)
