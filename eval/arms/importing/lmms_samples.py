"""Samples that lmms-eval wrote, as rows: the inverse of `eval.export.lmms_eval`.

lmms-eval 0.7 leaves out `doc`, and `resps` where they equal `filtered_resps`, when it writes samples. Without `doc` a
sample's case is the one at the place `doc_id` in the list of cases, and its target must be that case's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.reading.tables import Table
from eval.arms.importing.rows import (
    CONCEPTS,
    DIAGNOSIS,
    LISTED,
    SCORES,
    TURN,
    ImportingError,
    Row,
    read_number,
)
from eval.asking.cases import Case
from eval.tasks import Task

TASKS = {"concepts": CONCEPTS, "diagnosis": DIAGNOSIS, "list": LISTED, "class": SCORES}
_NAME = re.compile(r"samples_(?:skingpt4_)?(\w+)\.jsonl$")


def read_samples(source: str, cases: Sequence[Case], task: Task) -> list[Row]:
    """The rows of one file; `source` is FILE, or WHAT=FILE where its name does not say what was asked.

    Raises:
        SourceError: the file cannot be read.
        ImportingError: it is unknown what was asked, or a line is not a sample of these cases.
    """
    named, _, rest = source.partition("=")
    path = Path(rest if rest and not Path(source).exists() else source)
    match = _NAME.search(path.name)
    word = named if str(path) == rest else match[1] if match else ""
    what, number = _what(word, path)
    rows = []
    for line, sample in Table(path):
        where = f"{path.name}, line {line}"
        if isinstance(sample, str):
            raise ImportingError(f"{where}: {sample}")
        case = _case(sample, cases, what, where)
        if what == SCORES:
            rows.append(Row(where, case.id, what, scores=_scores(sample, task, where)))
            continue
        texts = _texts(sample.get("resps")) or _texts(sample.get("filtered_resps"))
        if not texts:
            raise ImportingError(f"{where}: has no text under 'filtered_resps'")
        question = sample.get("input") if isinstance(sample.get("input"), str) else None
        rows += [
            Row(where, case.id, what, number, repeat, text, question or None,
                num_tokens=None if repeat else _num_tokens(sample))
            for repeat, text in enumerate(texts)
        ]  # fmt: skip
    return rows


def _what(word: str, path: Path) -> tuple[str, int]:
    turn = re.fullmatch(r"turn_?([1-9][0-9]?)", word)
    if turn:
        return TURN, int(turn[1])
    if word in TASKS:
        return TASKS[word], 0
    raise ImportingError(
        f"{path}: its name does not say what was asked; write WHAT={path} with turn_1, turn_2, ..., "
        f"{', '.join(TASKS)} as WHAT"
    )


def _case(sample: dict[str, Any], cases: Sequence[Case], what: str, where: str) -> Case:
    """The case of a sample."""
    doc = sample.get("doc")
    if isinstance(doc, dict) and isinstance(doc.get("id"), str):
        case = next((case for case in cases if case.id == doc["id"]), None)
        if case is None:
            raise ImportingError(f"{where}: the case {doc['id']!r} is not in the list of cases")
        return case
    place = sample.get("doc_id")
    if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(cases):
        raise ImportingError(f"{where}: 'doc_id' is {place!r}, and there are {len(cases)} cases (from 0 on)")
    case, target = cases[place], str(sample.get("target", ""))
    if what in (DIAGNOSIS, LISTED) and target not in (case.label, case.known.disease):
        raise ImportingError(
            f"{where}: the target is {target[:60]!r}, and case {place} of the list is {case.label!r}; the samples "
            "are about another list of cases"
        )
    return case


def _num_tokens(sample: dict[str, Any]) -> int | None:
    """Tokens of the first repeat, where they were counted."""
    counts = sample.get("token_counts")
    first = counts[0] if isinstance(counts, list) and counts else None
    count = first.get("output_tokens") if isinstance(first, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


def _texts(value: Any) -> list[str]:
    """The texts of one sample, one a repeat, however deeply they are wrapped in lists."""
    if isinstance(value, str):
        return [value]
    return [text for item in value for text in _texts(item)] if isinstance(value, list) else []


def _scores(sample: dict[str, Any], task: Task, where: str) -> dict[str, float]:
    """Log-probabilities by class: pairs of a number and whether it is what greedy decoding writes."""
    doc, pairs = sample.get("doc"), sample.get("filtered_resps")
    names = doc.get("choices") if isinstance(doc, dict) else list(task.classes)
    values = (
        [pair[0] if isinstance(pair, list) and pair else pair for pair in pairs]
        if isinstance(pairs, list)
        else []
    )
    if (
        not isinstance(names, list)
        or sorted(map(str, names)) != sorted(task.classes)
        or len(values) != len(names)
    ):
        raise ImportingError(
            f"{where}: has {len(values)} likelihoods, and the task {task.name} has {len(task.classes)} classes; they "
            "must be the same classes"
        )
    numbers = [read_number(value, "a likelihood", where, negative=True) for value in values]
    by_name = dict(zip(names, numbers, strict=True))
    return {name: round(by_name[name], 4) for name in task.classes}
