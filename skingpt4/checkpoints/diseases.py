"""The diseases that a checkpoint was trained on, as its card has them: name, class and number of records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from skingpt4.config.schema import PromptConfig
from skingpt4.records.manifest import Manifest
from skingpt4.taxonomy import taxonomy
from skingpt4.taxonomy.closed_set import ClosedSet
from skingpt4.taxonomy.taxonomy import CLASSES, OTHERS

# A card is read as a whole, also by people. Of more diseases the commonest stand in it, and a count of the others.
MAX_DISEASES = 2000
MIN_SHARED_RECORDS = 5


def taught_diseases(records: Manifest, prompt: PromptConfig) -> list[dict[str, Any]]:
    """The diseases that a training teaches by the disease sentence, the commonest first.

    A disease's class is the one that most of its records name, else the taxonomy's.

    Args:
        records: of the training manifests.
        prompt: whether and how diseases are taught.
    """
    if not (prompt.use_disease and prompt.disease_sentence):
        return []
    counts: Counter[str] = Counter()
    classes: dict[str, Counter[str]] = {}
    is_dialogue = records.known("turns") if prompt.use_turns else np.zeros(len(records), bool)
    columns = (records.column(key).to_pylist() for key in ("disease", "class"))
    for disease, class_name, dialogue in zip(*columns, is_dialogue, strict=True):
        if disease and not dialogue:
            counts[disease] += 1
            if class_name in (*CLASSES, OTHERS):
                classes.setdefault(disease, Counter())[class_name] += 1
    return [
        {
            "disease": disease,
            "class": classes[disease].most_common(1)[0][0]
            if disease in classes
            else taxonomy.disease_class(disease),
            "records": count,
        }
        for disease, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def card_values(taught: Sequence[Mapping[str, Any]], parent: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says: `diseases`, of all that was taught in this run and before it, and how many it leaves out.

    Args:
        taught: from `taught_diseases`.
        parent: the card of the checkpoint that the run begins from; empty without one.
    """
    rows: dict[str, dict[str, Any]] = {}
    for row in (*taught, *parent.get("diseases", ())):
        same = rows.setdefault(row["disease"], {**row, "records": 0})
        same["records"] += row["records"]
    ordered = sorted(rows.values(), key=lambda row: (-row["records"], row["disease"]))
    left_out = len(ordered[MAX_DISEASES:]) + parent.get("num_diseases_left_out", 0)
    return {"diseases": ordered[:MAX_DISEASES], "num_diseases_left_out": left_out}


def shareable(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Those that may leave this machine: a name of few records that no taxonomy knows may be a person's."""
    return [
        dict(row)
        for row in rows
        if row["records"] >= MIN_SHARED_RECORDS or taxonomy.disease(row["disease"]) is not None
    ]


def of_card(card: Mapping[str, Any]) -> ClosedSet | None:
    """What is scored with the checkpoint of a card; None where it names no diseases."""
    return ClosedSet.of_training(card["diseases"]) if card.get("diseases") else None
