"""What the model is asked, and the sentences of the closed sets; no model is needed here."""

from __future__ import annotations

from collections.abc import Iterable

from skingpt4.records.record import Record
from skingpt4.taxonomy import taxonomy
from skingpt4.taxonomy.morphology import say_concepts
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS

# The four questions asked about every case of the published evaluation (Nature Communications 2024, 15:5649).
CLINICAL_PROMPTS = (
    "Could you describe the skin disease in this image for me?",
    "Please provide a paragraph listing additional features you observed in the image.",
    "Based on the previous information, please provide a detailed explanation of the cause of this skin disease.",
    "What treatment and medication should be recommended for this case?",
)
# Asked with fresh state. They are what the two steps were trained to answer; concepts and a class are read from them.
CONCEPTS_QUESTION = "Could you describe the medical concepts of skin disease in this image for me?"
DIAGNOSIS_QUESTION = "What is wrong with my skin?"


def scored_diseases(records: Iterable[Record]) -> dict[str, str]:
    """One disease for each of the 15 classes: the closed set whose sentences are scored.

    If all cases of a class have the same disease, as the phantoms do, it is that one in their own wording; otherwise
    the one that the taxonomy gives for the class, so that no case's own name is favoured over others of its class.
    """
    names: dict[str, set[str | None]] = {}
    for record in records:
        if record.class_name:
            names.setdefault(record.class_name, set()).add(record.disease)
    chosen = {}
    for class_name in CLASSES:
        diseases = names.get(class_name, set())
        only = next(iter(diseases)) if len(diseases) == 1 else None
        chosen[class_name] = only or taxonomy.class_disease(class_name)
    return chosen


def class_sentences(form: str, diseases: dict[str, str]) -> list[str]:
    """The disease sentence with each class's disease, in the order of `diseases`."""
    return [form.format(disease=disease) for disease in diseases.values()]


def concept_sentences(form: str) -> list[str]:
    """The concepts' sentence with each of the 48 concepts, in SKINCON's order."""
    return [say_concepts(form, [concept]) for concept in CONCEPTS]
