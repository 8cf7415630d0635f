"""How the samples of one batch are put together: padded, in groups of like length, or several to a row.

None of these changes what is computed: a batch's loss is a sum over its supervised tokens, so the batch may be cut
into groups whose gradients add up, and samples of one row do not see each other. Which samples make up a batch
stays a function of (seed, index) alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from skingpt4.model.prompts import IGNORED


def choose_batching(name: str, device: torch.device) -> str:
    """The way of a batch: auto groups on a CPU, where small matrix products are as fast as large ones, else pads."""
    if name != "auto":
        return name
    return "grouped" if device.type == "cpu" else "padded"


def arrange(lengths: Sequence[int], batching: str, budget: int) -> list[list[list[int]]]:
    """Which samples stand together: groups of rows of samples, each sample once; a function of its arguments alone.

    Args:
        lengths: tokens of each sample.
        batching: padded (one group, one sample a row), grouped (groups of like length, longest first, padded to at
            most `budget` tokens each), or packed (one group; rows of several samples, as full as can be).
        budget: tokens of a group, or of a packed row; a sample that is longer stands alone.
    """
    longest_first = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    if batching == "padded":
        return [[[number] for number in range(len(lengths))]]
    if batching == "grouped":
        groups: list[list[list[int]]] = []
        for number in longest_first:
            if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0][0]] <= budget:
                groups[-1].append([number])
            else:
                groups.append([[number]])
        return groups
    room = max(budget, max(lengths))
    rows: list[list[int]] = []
    used: list[int] = []
    for number in longest_first:  # first fit, longest first
        row = next((r for r, tokens in enumerate(used) if tokens + lengths[number] <= room), len(rows))
        if row == len(rows):
            rows.append([])
            used.append(0)
        rows[row].append(number)
        used[row] += lengths[number]
    return [rows]


class Collate:
    """Samples to the groups of a batch, each with input_ids, labels (b, t), image or queries (samples, ...).

    A group also has an attention_mask (b, t), 0 at padding, or, where a row holds several samples, position_ids
    (b, t) that begin anew at 0 with each sample and with the padding.
    """

    def __init__(self, batching: str = "padded", budget: int = 0) -> None:
        """Keep the way of `arrange`."""
        self.batching, self.budget = batching, budget

    def __call__(self, samples: Sequence[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """The groups of one batch, in the order they are to be run."""
        lengths = [len(sample["encoded"].input_ids) for sample in samples]
        return [
            collate_rows([[samples[number] for number in row] for row in rows])
            for rows in arrange(lengths, self.batching, self.budget)
        ]


def collate_rows(rows: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Tensor]:
    """Right-pad rows of one or several samples to a batch, see `Collate`."""
    length = max(sum(len(sample["encoded"].input_ids) for sample in row) for row in rows)
    input_ids = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORED)
    attention_mask = torch.zeros(len(rows), length, dtype=torch.long)
    position_ids = torch.zeros(len(rows), length, dtype=torch.long)
    for number, row in enumerate(rows):
        start = 0
        for sample in row:
            encoded = sample["encoded"]
            ids, end = torch.tensor(encoded.input_ids), start + len(encoded.input_ids)
            input_ids[number, start:end] = ids
            labels[number, start:end] = torch.where(torch.tensor(encoded.supervised), ids, IGNORED)
            labels[number, start] = IGNORED  # what the row's sample before it would have to foresee
            attention_mask[number, start:end] = 1
            position_ids[number, start:end] = torch.arange(end - start)
            start = end
        position_ids[number, start:] = torch.arange(length - start)
    batch = {"input_ids": input_ids, "labels": labels}
    if any(len(row) > 1 for row in rows):
        batch["position_ids"] = position_ids
    else:
        batch["attention_mask"] = attention_mask
    samples = [sample for row in rows for sample in row]
    for key in ("image", "queries"):
        if key in samples[0]:
            batch[key] = torch.stack([sample[key] for sample in samples])
    return batch
