"""A token of every running answer as a CUDA graph: its hundreds of small kernels are launched as one.

With one conversation a GPU waits for Python, which launches the kernels one by one. A graph repeats recorded launches
on the same memory, so everything that changes from token to token (ids, positions, the column to write, the mask)
lies in tensors that stay where they are, and attention goes over all columns that are reserved, those not in use
masked. It has never run on a GPU: tests run the same step without recording.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from skingpt4.generation.cache import Rows
from skingpt4.model.language import LanguageModel


def can_repeat(model: LanguageModel) -> bool:
    """Whether a language model's token can be recorded: whole on one GPU, not quantised, masked explicitly.

    Args:
        model: a causal language model.
    """
    config = model.config.get_text_config(decoder=True)
    whole = len(set((model.device_map or {"": 0}).values())) == 1
    plain = model.quantization == "none"
    window = getattr(config, "sliding_window", None)
    return model.input_device.type == "cuda" and whole and plain and not window and model.takes_mask


class Step:
    """One token of every row of a cache, for as long as its rows and reserved columns stay the same."""

    def __init__(self, model: Any, rows: Rows) -> None:
        """Lay out what changes from token to token.

        Args:
            model: a causal language model.
            rows: the cache; at least one column must be free.
        """
        self.model, self.rows = model, rows
        self.shape = (rows.columns.rows, rows.columns.capacity)
        num_rows, capacity = self.shape
        device = model.input_device
        self.ids = torch.zeros(num_rows, 1, dtype=torch.long, device=device)
        self.positions = torch.zeros_like(self.ids)
        self.column = torch.zeros(1, dtype=torch.long, device=device)
        self.seen = torch.zeros(num_rows, 1, 1, capacity, dtype=torch.bool, device=device)
        self.logits: Tensor | None = None
        self.repeat: Callable[[], None] | None = None

    def fits(self, rows: Rows) -> bool:
        """Whether it still serves this cache."""
        return rows is self.rows and self.shape == (rows.columns.rows, rows.columns.capacity)

    def __call__(self, ids: Sequence[int]) -> Tensor:
        """Read one token of each row; returns logits (rows, 1, vocabulary), overwritten by the next call."""
        self.prepare(ids)
        assert self.repeat is not None
        self.repeat()
        self.rows.advance(1)
        assert self.logits is not None
        return self.logits

    def prepare(self, ids: Sequence[int]) -> None:
        """Put everything in its place; at the first time record what will be repeated."""
        rows, (num_rows, _) = self.rows, self.shape
        end = rows.columns.end
        mask = rows.mask[:num_rows, None, None].clone()
        mask[..., : rows.columns.start] = False
        mask[..., end] = True
        self.seen.copy_(mask)
        self.ids.copy_(torch.tensor(ids)[:, None])
        self.positions.copy_(torch.tensor(rows.lengths)[:, None])
        self.column.fill_(end)
        if self.repeat is None:
            self.repeat = self._recorded() if self.ids.is_cuda else self._run

    def _run(self) -> None:
        dtype = self.model.dtype
        mask = torch.zeros(self.seen.shape, dtype=dtype, device=self.seen.device)
        mask = mask.masked_fill(~self.seen, torch.finfo(dtype).min)
        self.rows.columns.column = self.column
        try:
            out = self.model(
                input_ids=self.ids, attention_mask=mask, position_ids=self.positions, past_key_values=self.rows,
                use_cache=True,
            )  # fmt: skip
        finally:
            self.rows.columns.column = None
        self.logits = out.logits

    def _recorded(self) -> Callable[[], None]:
        """Run a few times aside, as CUDA asks for, then once while it records; the same column is written again."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run()
        return graph.replay
