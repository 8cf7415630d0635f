"""Training batches: which samples each iteration takes, and how they are put together.

A batch is padded, split into groups of similar length, or packed with several samples to a row. None of these changes
what is computed: a batch's loss is a sum over its supervised tokens, so it may be split into groups whose gradients
add up, and samples of one row do not see each other. Which samples an iteration takes is a function of its number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from skingpt4.config.compat import BEHAVIOURS
from skingpt4.config.schema import Config
from skingpt4.model.language import LanguageModel
from skingpt4.model.prompts import IGNORED
from skingpt4.training.processes import ignore_interrupt
from skingpt4.training.samples import TrainingSamples

GROUP_TOKENS = 384  # of a group, or of a packed row: the activations of one group are in memory at a time


def choose_batching(name: str, device: torch.device) -> str:
    """Resolve auto: grouped on a CPU, where small matrix products are as fast as large ones, else padded."""
    if name != "auto":
        return name
    return "grouped" if device.type == "cpu" else "padded"


def arrange(lengths: Sequence[int], batching: str, max_tokens: int) -> list[list[list[int]]]:
    """Distribute samples over groups of rows, each sample once; a function of the arguments alone.

    Args:
        lengths: tokens of each sample.
        batching: padded (one group, one sample a row), grouped (groups of similar length, longest first, padded to
            at most `max_tokens` each), or packed (one group; rows of several samples, as full as possible).
        max_tokens: of a group, or of a packed row; a longer sample stands alone.

    Returns:
        Groups of rows of sample numbers.
    """
    longest_first = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    if batching == "padded":
        return [[[number] for number in range(len(lengths))]]
    if batching == "grouped":
        groups: list[list[list[int]]] = []
        for number in longest_first:
            if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0][0]] <= max_tokens:
                groups[-1].append([number])
            else:
                groups.append([[number]])
        return groups
    room = max(max_tokens, max(lengths))
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


@dataclass(frozen=True)
class Collate:
    """Puts samples together to the groups of a batch; `batching` and `max_tokens` as in `arrange`."""

    batching: str = "padded"
    max_tokens: int = GROUP_TOKENS

    def __call__(self, samples: Sequence[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """The groups of one batch, in the order they are run; each is what `collate_rows` returns."""
        lengths = [len(sample["encoded"].input_ids) for sample in samples]
        return [
            collate_rows([[samples[number] for number in row] for row in rows])
            for rows in arrange(lengths, self.batching, self.max_tokens)
        ]


def collate_rows(rows: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Tensor]:
    """Right-pad rows of one or several samples.

    Returns:
        input_ids and labels (b, t) int64; image (samples, 3, h, w) or queries (samples, q, d); and attention_mask
        (b, t), 0 at padding, or, where a row holds several samples, position_ids (b, t) that start again at 0 with
        each sample and with the padding.
    """
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
            labels[number, start] = IGNORED  # the row's previous sample must not predict it
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


def make_collate(config: Config, language_model: LanguageModel) -> Collate:
    """The `Collate` of a configuration.

    Raises:
        LanguageModelError: packing was asked of a family that mixes the samples of a row.
    """
    if BEHAVIOURS[config.compat].mean_of_means:
        return Collate()  # the mean of each batch counts, so a batch stays in one piece
    batching = choose_batching(config.data.batching, language_model.input_device)
    if batching == "packed":
        language_model.require_packing()  # refuses what cannot be packed
    return Collate(batching, GROUP_TOKENS)


def batch_indices(
    start: int, stop: int, batch_size: int, accumulation: int, rank: int, world: int
) -> Iterator[list[int]]:
    """Sample indices of one process's micro-batches for iterations `start` to `stop`.

    An iteration takes the same samples however it is split into micro-batches and processes.
    """
    for micro in range(start * accumulation, stop * accumulation):
        first = (micro * world + rank) * batch_size
        yield list(range(first, first + batch_size))


def batches(
    config: Config,
    samples: TrainingSamples,
    collate: Collate,
    accelerator: Accelerator,
    start: int,
    stop: int,
) -> Iterator[list[dict[str, Tensor]]]:
    """One process's micro-batches of each iteration from `start` to `stop`, on the CPU; see `collate_rows`."""
    optim, on_gpu = config.optim, accelerator.device.type == "cuda"
    rank, world = accelerator.process_index, accelerator.num_processes
    loader = DataLoader(
        samples,
        batch_sampler=list(batch_indices(start, stop, optim.batch_size, optim.accumulation, rank, world)),
        collate_fn=collate,
        # Cached features cost next to nothing to read: worker processes pay only beside a GPU.
        num_workers=config.data.num_workers if on_gpu or not config.data.feature_cache else 0,
        worker_init_fn=ignore_interrupt,
        pin_memory=on_gpu,
    )
    groups = iter(loader)
    for _ in range(start, stop):
        yield [group for _ in range(optim.accumulation) for group in next(groups)]
