"""Training batches: which samples each iteration takes, and how they are put together.

A batch is padded, or split into groups of similar length. That does not change what is computed: a batch's loss is
a sum over its supervised tokens, so it may be split into groups whose gradients add up. Which samples an iteration
takes is a function of its number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Subset

from skingpt4.config.compat import BEHAVIOURS
from skingpt4.config.schema import Config
from skingpt4.model.language import LanguageModel
from skingpt4.model.prompts import IGNORED
from skingpt4.training.distributed.signals import ignore_interrupt

GROUP_TOKENS = 384  # the activations of one group are in memory at a time


def choose_batching(name: str, device: torch.device) -> str:
    """Resolve auto: grouped on a CPU, where small matrix products are as fast as large ones, else padded."""
    if name != "auto":
        return name
    return "grouped" if device.type == "cpu" else "padded"


def arrange(lengths: Sequence[int], batching: str, max_tokens: int) -> list[list[int]]:
    """Distribute samples over groups, each sample once; a function of the arguments alone.

    Args:
        lengths: tokens of each sample.
        batching: padded (one group), or grouped (groups of similar length, longest first).
        max_tokens: of a group, padding included; a longer sample stands alone.

    Returns:
        Groups of sample numbers.
    """
    if batching == "padded":
        return [list(range(len(lengths)))]
    groups: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= max_tokens:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


@dataclass(frozen=True)
class Collate:
    """Puts samples together to the groups of a batch; `batching` and `max_tokens` as in `arrange`."""

    batching: str = "padded"
    max_tokens: int = GROUP_TOKENS

    def __call__(self, samples: Sequence[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """The groups of one batch, in the order they are run; each is what `pad_right` returns."""
        lengths = [len(sample["encoded"].input_ids) for sample in samples]
        return [
            pad_right([samples[number] for number in group])
            for group in arrange(lengths, self.batching, self.max_tokens)
        ]


def pad_right(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """One padded row for each sample; of pairs the preferred answers and then the others.

    Returns:
        input_ids and labels (b, t) int64; attention_mask (b, t), 0 at padding; image (b, 3, h, w) or queries
        (b, q, d); weights (b, t) fp32 of the labels, if the samples have any; of pairs reference (b / 2,), beta ().
    """
    rows = [sample["encoded"] for sample in samples]
    if "rejected" in samples[0]:
        rows += [sample["rejected"] for sample in samples]
        samples = [*samples, *samples]
    length = max(len(encoded.input_ids) for encoded in rows)
    input_ids = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORED)
    attention_mask = torch.zeros(len(rows), length, dtype=torch.long)
    for row, encoded in enumerate(rows):
        ids, end = torch.tensor(encoded.input_ids), len(encoded.input_ids)
        input_ids[row, :end] = ids
        labels[row, :end] = torch.where(torch.tensor(encoded.supervised), ids, IGNORED)
        attention_mask[row, :end] = 1
    batch = {"input_ids": input_ids, "labels": labels, "attention_mask": attention_mask}
    for key in ("image", "queries"):
        if key in samples[0]:
            batch[key] = torch.stack([sample[key] for sample in samples])
    if "weights" in samples[0]:
        batch["weights"] = pad_sequence([sample["weights"] for sample in samples], batch_first=True)
    if "rejected" in samples[0]:
        batch["reference"] = torch.tensor([sample["reference"] for sample in samples[: len(samples) // 2]])
        batch["beta"] = torch.tensor(samples[0]["beta"])
    return batch


def num_supervised(batch: dict[str, Tensor]) -> float:
    """The number of a batch's supervised tokens, or the sum of their weights; of preferences the number of pairs."""
    if "reference" in batch:
        return float(len(batch["reference"]))
    supervised = batch["labels"][:, 1:] >= 0
    return float((batch["weights"][:, 1:][supervised] if "weights" in batch else supervised).sum())


def make_collate(config: Config, language_model: LanguageModel) -> Collate:
    """The `Collate` of a configuration."""
    if BEHAVIOURS[config.compat].mean_of_means:
        return Collate()  # the mean of each batch counts, so a batch stays in one piece
    return Collate(choose_batching(config.data.batching, language_model.input_device), GROUP_TOKENS)


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
    samples: Dataset[Any],
    collate: Collate,
    accelerator: Accelerator,
    start: int,
    stop: int,
) -> Iterator[list[dict[str, Tensor]]]:
    """One process's micro-batches of each iteration from `start` to `stop`, on the CPU; see `pad_right`."""
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


def own_batches(
    samples: Dataset[Any], batch_size: int, accelerator: Accelerator, collate: Collate
) -> Iterator[list[dict[str, Tensor]]]:
    """One process's share of samples of a known number, as groups of each batch.

    Every process gets as many batches as the first, which has the most samples; what it lacks is empty.
    """
    num_samples, world = len(samples), accelerator.num_processes  # type: ignore[arg-type]
    own = Subset(samples, range(accelerator.process_index, num_samples, world))
    loader = DataLoader(own, batch_size=batch_size, collate_fn=collate)
    num_batches = math.ceil(math.ceil(num_samples / world) / batch_size)
    yield from islice(chain(loader, repeat([])), num_batches)
