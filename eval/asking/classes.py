"""The class that a written answer commits to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from eval.tasks import Task
from skingpt4.generation.questions import scored_diseases
from skingpt4.records.record import Record
from skingpt4.taxonomy import free_text, taxonomy


def options_of(task: Task, records: Iterable[Record]) -> dict[str, tuple[str, ...]]:
    """The texts that stand for each class of a task; the default's follow the cases (`scored_diseases`)."""
    if task.cases_wording:
        return {name: (disease,) for name, disease in scored_diseases(records).items()}
    return {name: task.options[name] for name in task.classes}


def read_task_class(
    answer: str, form: str, task: Task, options: Mapping[str, tuple[str, ...]]
) -> dict[str, Any]:
    """As `read_class`, by the labels of a task."""
    if task.is_default:
        return read_class(answer, form, {name: texts[0] for name, texts in options.items()})
    return _fields(free_text.classify(answer, form, task.lexicon))


def read_class(answer: str, form: str, scored: dict[str, str]) -> dict[str, Any]:
    """The class that a written answer commits to, and how it speaks of what decided.

    A scored disease whose name the taxonomy does not know counts under the class it was scored for, where the
    answer states it in the given form.

    Args:
        answer: what the model wrote.
        form: the sentence that states a diagnosis, with `{disease}` in it.
        scored: class to disease, from `skingpt4.generation.questions.scored_diseases`.

    Returns:
        `text_class` (None: commits to none), `text_outcome` (one of taxonomy.OUTCOMES) and `text_mention`, the
        deciding words with their span, status and cue, or None.
    """
    for class_name, disease in scored.items():
        stated = form.format(disease=disease).rstrip(".")
        if taxonomy.disease(disease) is None and stated.casefold() in answer.casefold():
            return {"text_class": class_name, "text_outcome": "asserted", "text_mention": None}
    return _fields(free_text.classify(answer, form))


def _fields(result: free_text.Classified) -> dict[str, Any]:
    mention = result.mention
    deciding = mention and {
        "text": mention.text,
        "span": [mention.start, mention.end],
        "status": mention.status,
        "cue": mention.cue,
    }
    return {"text_class": result.class_name, "text_outcome": result.outcome, "text_mention": deciding}
