"""Diseases and classes in the evaluation: what is scored for each class, and the class that an answer commits to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from skingpt4 import taxonomy
from skingpt4.records import Record
from skingpt4.taxonomy import CLASSES


def scored_diseases(records: Iterable[Record]) -> dict[str, str]:
    """One disease for each of the 15 classes: the closed set whose sentences are scored.

    Where all cases of a class carry one and the same disease it is that one, in their own wording (the phantoms
    do); else the one that the taxonomy names for the class. So no case's own name is favoured over others of
    its class.
    """
    names: dict[str, set[str | None]] = {}
    for record in records:
        if record.class_name:
            names.setdefault(record.class_name, set()).add(record.disease)
    chosen = {}
    for class_name in CLASSES:
        carried = names.get(class_name, set())
        only = next(iter(carried)) if len(carried) == 1 else None
        chosen[class_name] = only or taxonomy.class_disease(class_name)
    return chosen


def read_class(answer: str, form: str, scored: dict[str, str]) -> dict[str, Any]:
    """The class that a written answer commits to, and how it speaks of what decided.

    A scored disease whose name the taxonomy does not know counts under the class it was scored for, where the
    answer states it in the given form.

    Args:
        answer: what the model wrote.
        form: the sentence that states a diagnosis, with `{disease}` in it.
        scored: class to disease, from `scored_diseases`.

    Returns:
        `text_class` (None: commits to none), `text_outcome` (one of taxonomy.OUTCOMES) and `text_mention`, the
        deciding words with their span, status and cue, or None.
    """
    for class_name, disease in scored.items():
        stated = form.format(disease=disease).rstrip(".")
        if taxonomy.disease(disease) is None and stated.casefold() in answer.casefold():
            return {"text_class": class_name, "text_outcome": "asserted", "text_mention": None}
    result = taxonomy.classify(answer, form)
    mention = result.mention
    said = mention and {
        "text": mention.text,
        "span": [mention.start, mention.end],
        "status": mention.status,
        "cue": mention.cue,
    }
    return {"text_class": result.class_name, "text_outcome": result.outcome, "text_mention": said}
