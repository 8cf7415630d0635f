"""Which labels of public data sets the taxonomy knows: data_sets.yaml holds each with the class that it must have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from skingpt4.support.files import read_yaml
from skingpt4.taxonomy.taxonomy import listed_disease, written_out

NO_CLASS, NO_DISEASE = "none", "unknown"


@cache
def data_set_labels() -> dict[str, dict[str, str]]:
    """{data set: {label as its table writes it: class, NO_CLASS or NO_DISEASE}}."""
    content = read_yaml(Path(__file__).with_name("data_sets.yaml"))
    return {
        name: {label: class_name for class_name, labels in by_class.items() for label in labels}
        for name, by_class in content.items()
    }


def class_of_label(label: str) -> str:
    """What the taxonomy says of a label: a class, NO_CLASS or NO_DISEASE."""
    term = listed_disease(written_out(label))
    return NO_DISEASE if term is None else term.group or NO_CLASS


@dataclass(frozen=True)
class Coverage:
    """How many of a data set's labels are known, and how many of them have a class; `unknown` are the others."""

    name: str
    labels: int
    known: int
    classed: int
    unknown: tuple[str, ...]


def coverage() -> Iterator[Coverage]:
    """The coverage of every data set."""
    for name, labels in data_set_labels().items():
        classes = {label: class_of_label(label) for label in labels}
        unknown = tuple(label for label, class_name in classes.items() if class_name == NO_DISEASE)
        known = len(labels) - len(unknown)
        classed = known - sum(class_name == NO_CLASS for class_name in classes.values())
        yield Coverage(name, len(labels), known, classed, unknown)
