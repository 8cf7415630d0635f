"""Concepts as people say them: Plaque, Erythema, Scale and Scar are "red, scaly plaques with scars"."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from skingpt4.support.files import read_yaml


@cache
def _spoken() -> dict[str, dict[str, str]]:
    return read_yaml(Path(__file__).with_name("concept_words.yaml"))["spoken"]


def morphology(concepts: Sequence[str]) -> str:
    """A phrase that says these concepts, from which `free_text.find_concepts` reads the same ones.

    The first lesion of the vocabulary's order is the main one. A name that is not SKINCON's is said as it is.

    Args:
        concepts: names; their order matters only where they are not SKINCON's. Empty gives an empty phrase.
    """
    spoken = _spoken()
    lesions, adjectives, beside = (
        [word for concept, word in spoken[kind].items() if concept in concepts]
        for kind in ("lesions", "adjectives", "beside")
    )
    known = {concept for words in spoken.values() for concept in words}
    others = [*lesions[1:], *beside, *(concept for concept in concepts if concept not in known)]
    main = " ".join(filter(None, [", ".join(adjectives), *(lesions[:1] or ["skin"] * bool(adjectives))]))
    return " with ".join(filter(None, [main, " and ".join(others)]))


def say_concepts(form: str, concepts: Sequence[str]) -> str:
    """A sentence about concepts.

    Args:
        form: with `{concepts}` for their names after one another, or `{morphology}` for the phrase of `morphology`.
        concepts: names.
    """
    return form.format(concepts=", ".join(concepts), morphology=morphology(concepts))
