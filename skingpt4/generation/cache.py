"""Keys and values of several conversations in one preallocated buffer, rows of different lengths.

transformers' `DynamicCache` copies everything it holds at each token, and its rows join and leave only together. Here
a token is written in place, a row can join or leave at any token, and shortening a conversation is free. All rows end
at the same column; a shorter one is padded on the left, and `mask` says which columns are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

ROOM = 64  # columns that are added at least when a buffer grows


def can_hold(config: Any) -> bool:
    """Whether a language model's whole state is keys and values a column, so that rows join, leave and are cropped.

    A sliding window is one that the mask keeps; recurrent and convolutional states cannot be cut back to an earlier
    token, and neither can compressed ones.

    Args:
        config: the language model's.
    """
    config = config.get_text_config(decoder=True)
    if getattr(config, "attention_chunk_size", None) or getattr(config, "num_kv_shared_layers", None):
        return False
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    return bool(kinds) and kinds <= {DynamicLayer, DynamicSlidingWindowLayer}


class _Columns:
    """The window of columns in use, shared by all layers; `pending` columns are being written."""

    def __init__(self, capacity: int) -> None:
        self.start = self.end = 0
        self.capacity, self.rows = capacity, 1
        self.column: Tensor | None = None  # (1,) to write to, while a token is read by `graphs.Step`


class _Layer(CacheLayerMixin):
    """One layer's keys and values, (rows reserved, heads, capacity, width of a head) each."""

    is_sliding = False  # also for sliding families: the mask keeps the window, all columns stay
    is_croppable = True

    def __init__(self, columns: _Columns) -> None:
        super().__init__()
        self.columns, self.pending = columns, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Reserve what the first rows need. Zeros: a masked column's share is 0 times what stands there."""
        rows, capacity = self.columns.rows, self.columns.capacity
        self.keys = key_states.new_zeros(rows, key_states.shape[1], capacity, key_states.shape[3])
        self.values = value_states.new_zeros(rows, value_states.shape[1], capacity, value_states.shape[3])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Write (rows, heads, t, width) behind the last column; returns all columns in use with them.

        Where `columns.column` names the one column to write, all that are reserved are returned.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        if self.columns.column is not None:
            keys, values = self.keys[: self.columns.rows], self.values[: self.columns.rows]
            keys.index_copy_(2, self.columns.column, key_states)
            values.index_copy_(2, self.columns.column, value_states)
            return keys, values
        self.pending = key_states.shape[2]
        rows, start, end = self.columns.rows, self.columns.start, self.columns.end
        self.keys[:rows, :, end : end + self.pending] = key_states
        self.values[:rows, :, end : end + self.pending] = value_states
        window = slice(start, end + self.pending)
        return self.keys[:rows, :, window], self.values[:rows, :, window]

    def get_seq_length(self) -> int:
        """Columns in use."""
        return self.columns.end - self.columns.start + self.pending

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(columns that attention will see, columns left out before them)."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """No maximum."""
        return -1


class Rows(Cache):
    """A cache of one or more rows as every causal language model takes it in `past_key_values`."""

    layers: list[Any]

    def __init__(self, capacity: int = 0) -> None:
        """One empty row.

        Args:
            capacity: columns to reserve at first; more are reserved as they are needed.
        """
        self.columns = _Columns(max(capacity, ROOM))
        self.lengths = [0]  # tokens of each row
        self.mask = torch.zeros(1, self.columns.capacity, dtype=torch.bool)  # on the CPU
        super().__init__(layer_class_to_replicate=lambda: _Layer(self.columns))  # type: ignore[arg-type]

    @property
    def num_reserved(self) -> int:
        """Rows that there is memory for."""
        return len(self.mask)

    @property
    def num_bytes(self) -> int:
        """The memory that is reserved."""
        return sum(
            tensor.numel() * tensor.element_size()
            for layer in self.layers
            for tensor in (layer.keys, layer.values)
        )

    def reserve(self, length: int) -> None:
        """Make sure that `length` more columns can be written."""
        columns = self.columns
        if columns.end + length > columns.capacity:
            used = columns.end - columns.start
            self._move(self.num_reserved, used + length + max(ROOM, used // 4), 0)

    def attention_mask(self, length: int) -> Tensor | None:
        """(rows, columns with `length` new ones) bool, or None where no row is padded."""
        window = self.mask[: self.columns.rows, self.columns.start : self.columns.end + length]
        window[:, window.shape[1] - length :] = True
        return None if bool(window.all()) else window

    def advance(self, length: int) -> None:
        """The `length` columns written by all layers count from now on."""
        self.mask[: self.columns.rows, self.columns.end : self.columns.end + length] = True
        self.columns.end += length
        self.lengths = [have + length for have in self.lengths]
        self.take_back()

    def take_back(self) -> None:
        """Forget columns of a pass that failed half-way."""
        for layer in self.layers:
            layer.pending = 0

    def cut(self, length: int) -> None:
        """Keep only the first `length` tokens of the only row."""
        assert self.columns.rows == 1
        self.mask[:, self.columns.start + length :] = False
        self.columns.end = self.columns.start + length
        self.lengths = [length]

    def join(self, other: Rows) -> None:
        """Take the one row of another cache in as the last row; the other must not be used any more."""
        columns, length = self.columns, other.lengths[0]
        used = max(columns.end - columns.start, length)
        reserved = self.num_reserved
        if columns.rows == reserved or columns.end < length:
            room = max(ROOM, used // 4)
            reserved = max(reserved, 2 * columns.rows)
            self._move(reserved, used + room, used - (columns.end - columns.start))
        row = columns.rows
        first, theirs = columns.end - length, slice(other.columns.start, other.columns.end)
        for mine, new in zip(self._tensors(), other._tensors(), strict=True):
            mine[row, :, first : columns.end] = new[0, :, theirs]
        self.mask[row] = False
        self.mask[row, first : columns.end] = True
        columns.rows += 1
        columns.start = columns.end - used
        self.lengths.append(length)

    def copy_out(self, row: int) -> Rows:
        """One row as a cache of its own."""
        length, end = self.lengths[row], self.columns.end
        own = Rows(length + ROOM)
        for layer in self.layers:
            copy = _Layer(own.columns)
            window = slice(end - length, end)
            copy.update(layer.keys[row : row + 1, :, window], layer.values[row : row + 1, :, window])
            own.layers.append(copy)
        own.advance(length)
        return own

    def leave(self, row: int) -> None:
        """Drop a row; the last row moves to its place, and at least one must be left."""
        columns, last = self.columns, self.columns.rows - 1
        if row != last:
            window = slice(columns.end - self.lengths[last], columns.end)
            for mine in self._tensors():
                mine[row, :, window] = mine[last, :, window]
            self.mask[row] = self.mask[last]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        columns.rows = last
        columns.start = columns.end - max(self.lengths)

    def _tensors(self) -> Sequence[Any]:
        return [tensor for layer in self.layers for tensor in (layer.keys, layer.values)]

    def _move(self, reserved: int, capacity: int, first: int) -> None:
        """Copy what is in use into larger buffers, from column `first` on."""
        columns = self.columns
        rows, window = columns.rows, slice(columns.start, columns.end)
        last = first + columns.end - columns.start
        fresh = []  # all are there before any is used: memory may not suffice
        for old in self._tensors():
            fresh.append(old.new_zeros(reserved, old.shape[1], capacity, old.shape[3]))
            fresh[-1][:rows, :, first:last] = old[:rows, :, window]
        for layer in self.layers:
            layer.keys, layer.values, *fresh = fresh
        mask = torch.zeros(reserved, capacity, dtype=torch.bool)
        mask[:rows, first:last] = self.mask[:rows, window]
        self.mask = mask
        columns.start, columns.end, columns.capacity = first, last, capacity
