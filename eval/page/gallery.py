"""The cases shown in the report: picture, truth and every arm's answers side by side, chosen by rule."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.measures.intervals import Line, best_class
from eval.page.figures import SKIN_TYPES, escape, plain
from skingpt4.records.images import ImageError, open_image

GALLERY_SIZE, LONG_ANSWER = 12, 320
# Why a written answer commits to no class, by its outcome (skingpt4/taxonomy/taxonomy.py).
NO_CLASS = {
    "ambiguous": "several classes",
    "no_class": "a disease of no class",
    "mentioned": "only weighs diseases",
    "negated": "only rules out",
    "unknown": "no known disease",
}


def gallery_cases(lines: Sequence[Line]) -> list[Line]:
    """The first case of each class, class by class in the order of the scores, then each second one, ..."""
    order = {name: place for place, name in enumerate(lines[0]["class_scores"])}
    seen: Counter[str] = Counter()
    keyed = []
    for line in lines:
        keyed.append(((seen[line["class"]], order.get(line["class"], len(order))), line))
        seen[line["class"]] += 1
    return [line for _, line in sorted(keyed, key=lambda item: item[0])[:GALLERY_SIZE]]


def _picture(path: Path, alt: str) -> str:
    """A small copy of the picture, inline; saved anew, so that no camera data travels with the page."""
    try:
        image = open_image(path)
    except ImageError:
        return '<div class="nopicture">picture not found</div>'
    image.thumbnail((360, 360))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    size = f'width="{image.width}" height="{image.height}"'
    return f'<img src="data:image/jpeg;base64,{data}" alt="{escape(alt)}" {size}>'


def _mark(right: bool, word: str) -> str:
    return f'<span class="{"right" if right else "wrong"}">{"✓" if right else "✗"}&nbsp;{escape(word)}</span>'


def _answer(number: int, turn: dict[str, Any], asked: Sequence[str]) -> str:
    """One answer under the number of its question; a question of its own is written out."""
    text = turn["answer"].strip() or "(no text)"
    question = turn.get("question", "")
    own = "" if question in asked[number - 1 : number] else f'<p class="soft">{escape(question)}</p>'
    return own + _shortened(text, f'<span class="soft">{number}.</span> ')


def _arm_answers(arm: str, line: Line | None, asked: Sequence[str]) -> str:
    title = f"<h4>{escape(plain(arm))}</h4>"
    if line is None:
        return f"<section>{title}<p>not answered</p></section>"
    first, named = best_class(line), set(line["predicted_concepts"])
    true = named if line["concepts"] is None else set(line["concepts"])  # unknown: nothing is right or wrong
    verdict = _mark(first == line["class"], "right" if first == line["class"] else "wrong")
    text_class = line["text_class"]
    in_text = (
        NO_CLASS.get(line.get("text_outcome", ""), "no class named")
        if text_class is None
        else plain(text_class)
    )
    words = (_mark(concept in true, concept) for concept in sorted(named))
    hits = ", ".join(words if line["concepts"] is not None else map(escape, sorted(named))) or "none named"
    missed = f"; missed: {escape(', '.join(sorted(true - named)))}" if true - named else ""
    answers = "".join(_answer(number, turn, asked) for number, turn in enumerate(line["turns"], start=1))
    return (
        f"<section>{title}<p>{verdict}: {escape(plain(first))}</p>"
        f'<p><span class="soft">in its text:</span> {_mark(text_class == line["class"], in_text)}</p>'
        f'<p><span class="soft">concepts:</span> {hits}{missed}</p>{answers}</section>'
    )


def _card(line: Line, answers: dict[str, Line | None], image_dir: Path) -> str:
    title = f"{plain(line['class'])}: {line.get('disease') or 'disease not given'}"
    concepts = "unknown" if line["concepts"] is None else ", ".join(line["concepts"]) or "none annotated"
    tone = line.get("fitzpatrick")
    asked = [turn.get("question", "") for turn in line["turns"]]
    truth = {
        "annotated concepts": concepts,
        "Fitzpatrick type": "unknown" if tone in (None, -1) else SKIN_TYPES.get(str(tone), tone),
        "case": line["case_id"],
        **{f"question {number}": question for number, question in enumerate(asked, start=1)},
    }
    facts = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in truth.items()
    )
    picture = _picture(image_dir / line["image"], f"{title}; concepts: {concepts}")
    columns = "".join(_arm_answers(name, found, asked) for name, found in answers.items())
    truth_box = f'<div><h3>{escape(title)}</h3><dl class="facts">{facts}</dl></div>'
    talk = _conversation(answers)
    return f'<article><div class="case">{picture}{truth_box}</div><div class="arms">{columns}</div>{talk}</article>'


def _conversation(answers: dict[str, Line | None]) -> str:
    """The conversation of every arm, prompt by prompt and arm beside arm; empty where none was held."""
    talks = {arm: line.get("conversation", []) for arm, line in answers.items() if line is not None}
    prompts: list[dict[str, Any]] = next((talk for talk in talks.values() if talk), [])
    parts = []
    for number, turn in enumerate(prompts, start=1):
        columns = []
        for arm, talk in talks.items():
            said = talk[number - 1 : number]
            text = _shortened(said[0]["answer"].strip() or "(no text)") if said else "<p>not answered</p>"
            columns.append(f"<section><h5>{escape(plain(arm))}</h5>{text}</section>")
        parts.append(
            f'<h4>Prompt {number}: {escape(turn["question"])}</h4><div class="arms">{"".join(columns)}</div>'
        )
    return f'<div class="talk">{"".join(parts)}</div>' if parts else ""


def _shortened(text: str, before: str = "") -> str:
    """A text, a long one folded; `before` is HTML that stands before it."""
    if len(text) <= LONG_ANSWER:
        return f"<p>{before}{escape(text)}</p>"
    start = text[:LONG_ANSWER].rsplit(" ", 1)[0]
    whole = f"<details><summary>whole answer</summary><p>{escape(text)}</p></details>"
    return f"<p>{before}{escape(start)} …</p>{whole}"


def gallery(arms: dict[str, list[Line]], image_dir: Path, chosen: Sequence[str] = ()) -> str:
    """One card a case: picture, truth, and what each arm answered, arm beside arm.

    Args:
        arms: their lines.
        image_dir: what the pictures' paths are relative to.
        chosen: ids of cases that the first arm answered; none takes those of `gallery_cases`.
    """
    by_id = {name: {line["case_id"]: line for line in answers} for name, answers in arms.items()}
    first = next(iter(by_id.values()))
    lines = [first[name] for name in chosen] or gallery_cases(next(iter(arms.values())))
    cards = [
        _card(line, {name: found.get(line["case_id"]) for name, found in by_id.items()}, image_dir)
        for line in lines
    ]
    rule = (
        "chosen by rule and not by result: the first answered case of each class, in the order of the classes, then "
        "the second of each, until the page is full"
    )
    how = (
        f"{len(cards)} case{'s' * (len(cards) > 1)} {'chosen by hand' if chosen else rule}. ✓ marks what is right, ✗ "
        "what is wrong; 1. and 2. are the answers to the two questions, each asked afresh. The conversation "
        "below them "
        "is one through the four published prompts, in which each prompt sees the answers before it."
    )
    return f"<p>{escape(how)}</p>{''.join(cards)}"
