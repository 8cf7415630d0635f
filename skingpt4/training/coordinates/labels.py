"""The labels that a step teaches: concepts and diseases, as one number for each record and label."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from skingpt4.config.schema import PromptConfig
from skingpt4.records.manifest import Manifest
from skingpt4.records.record import RecordError


@dataclass(frozen=True)
class Labels:
    """What is known of each record.

    Attributes:
        names: the labels' words; the first `num_concepts` are concepts, the others diseases.
        num_concepts: how many of the names are concepts.
        values: (n, labels) fp32, 1 where a record has a label.
        known: of concepts and of diseases, the rows of the records of which they are known: (rows,) int64 each.
    """

    names: tuple[str, ...]
    num_concepts: int
    values: Tensor
    known: tuple[Tensor, Tensor]

    @property
    def kinds(self) -> tuple[slice, slice]:
        """The columns of concepts, and of diseases."""
        return slice(0, self.num_concepts), slice(self.num_concepts, len(self.names))


def require_labels(records: Manifest, prompt: PromptConfig) -> Labels:
    """The labels of a training's records, of which at least one tells records apart.

    Raises:
        RecordError: none does: no record has one, or all that have any have the same.
    """
    labels = labels_of(records, prompt)
    for known, kind in zip(labels.known, labels.kinds, strict=True):
        of_kind = labels.values[known][:, kind]
        if len(of_kind) and bool((of_kind != of_kind[0]).any()):
            return labels
    raise RecordError(
        f"projection.inputs: discriminants needs labels that tell records apart, and the {len(records)} records have "
        "no two concepts or diseases that this step teaches; add them to the manifest, or set projection.inputs: "
        "standardised"
    )


def labels_of(records: Manifest, prompt: PromptConfig) -> Labels:
    """The labels of a training's records, as far as its prompt teaches them, the commonest first."""
    of_record: list[list[list[str]]] = []
    for key, taught in (("concepts", prompt.use_concepts), ("disease", prompt.use_disease)):
        values = records.column(key).to_pylist() if taught else [None] * len(records)
        of_record.append([[value] if isinstance(value, str) else value or [] for value in values])
    names, known = [], []
    for values in of_record:
        counts = Counter(name for names in values for name in dict.fromkeys(names))
        names.append([name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))])
        known.append(torch.tensor([row for row, value in enumerate(values) if value], dtype=torch.long))
    table = torch.zeros(len(records), sum(map(len, names)))
    for kind, (own, values) in enumerate(zip(names, of_record, strict=True)):
        places = {name: place + len(names[0]) * kind for place, name in enumerate(own)}
        for row, value in enumerate(values):
            table[row, [places[name] for name in value]] = 1.0
    return Labels((*names[0], *names[1]), len(names[0]), table, (known[0], known[1]))
