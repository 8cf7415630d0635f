"""Keys and values: of the answers that are decoded together, and of conversations between their turns.

transformers' `DynamicCache` copies everything it holds at each token, and its rows join and leave only together.
`KVCache` writes a token in place, a row can join or leave at any token, and truncating a conversation is free. All
rows end at the same column; a shorter one is padded on the left, and `mask` says which columns are its own.
"""

from __future__ import annotations

import secrets
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

MIN_GROWTH = 64  # columns by which a buffer grows at least


class Rows(Protocol):
    """What a decoder needs of the state of rows that are read together; it begins as one empty row."""

    lengths: list[int]

    @property
    def num_reserved(self) -> int:
        """Rows that memory is reserved for."""

    @property
    def num_bytes(self) -> int:
        """Reserved memory."""

    def read(self, language_model: Any, length: int, **inputs: Any) -> Tensor:
        """Read `length` tokens of each row; logits (rows, tokens, vocabulary), at least of the last ones."""

    def truncate(self, length: int) -> None:
        """Keep only the first `length` tokens of the only row."""

    def join(self, other: Any) -> None:
        """Take in the one row of another state as the last row; the other must not be used any more."""

    def copy_row(self, row: int) -> Rows:
        """One row as a state of its own, before `remove` drops it here."""

    def remove(self, row: int) -> None:
        """Drop a row; the last row moves to its place."""

    def discard_pending(self) -> None:
        """Forget what a pass that failed halfway has written."""


class _Columns:
    """The window of columns in use, shared by all layers."""

    def __init__(self, capacity: int) -> None:
        self.start = self.end = 0
        self.capacity, self.rows = capacity, 1


class _Layer(CacheLayerMixin):
    """One layer's keys and values, (rows reserved, heads, capacity, width of a head) each.

    `pending` columns have been written by this layer, but not yet by all.
    """

    is_sliding = False  # also for sliding families: the mask applies the window, all columns stay
    is_croppable = True

    def __init__(self, columns: _Columns) -> None:
        super().__init__()
        self.columns, self.pending = columns, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Reserve what the first rows need. Zeros, since a masked column contributes 0 times its content."""
        rows, capacity = self.columns.rows, self.columns.capacity
        self.keys = key_states.new_zeros(rows, key_states.shape[1], capacity, key_states.shape[3])
        self.values = value_states.new_zeros(rows, value_states.shape[1], capacity, value_states.shape[3])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Write (rows, heads, t, width) behind the last column; returns all columns in use, the new ones included."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
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
        """(columns that attention will see, offset of the first)."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """No maximum."""
        return -1


class KVCache(Cache):
    """The cache of one or more rows, as every causal language model takes it in `past_key_values`.

    It begins as one empty row.

    Args:
        capacity: columns to reserve at first; more are reserved as they are needed.
    """

    layers: list[Any]

    def __init__(self, capacity: int = 0) -> None:
        self.columns = _Columns(max(capacity, MIN_GROWTH))
        self.lengths = [0]  # tokens of each row
        self.mask = torch.zeros(1, self.columns.capacity, dtype=torch.bool)  # on the CPU
        super().__init__(layer_class_to_replicate=lambda: _Layer(self.columns))  # type: ignore[arg-type]

    @property
    def num_reserved(self) -> int:
        """Rows that memory is reserved for."""
        return len(self.mask)

    @property
    def num_bytes(self) -> int:
        """Reserved memory."""
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
            self._move(self.num_reserved, used + length + max(MIN_GROWTH, used // 4), 0)

    def attention_mask(self, length: int) -> Tensor | None:
        """(rows, columns with `length` new ones) bool, or None where no row is padded."""
        window = self.mask[: self.columns.rows, self.columns.start : self.columns.end + length]
        window[:, window.shape[1] - length :] = True
        return None if bool(window.all()) else window

    def advance(self, length: int) -> None:
        """Count `length` columns that all layers have written as in use."""
        self.mask[: self.columns.rows, self.columns.end : self.columns.end + length] = True
        self.columns.end += length
        self.lengths = [old + length for old in self.lengths]
        self.discard_pending()

    def discard_pending(self) -> None:
        """Forget the columns of a pass that failed halfway."""
        for layer in self.layers:
            layer.pending = 0

    def read(self, language_model: Any, length: int, **inputs: Any) -> Tensor:
        """As of `Rows`; `inputs` are `input_ids` or `inputs_embeds`, and options of transformers' forward."""
        self.reserve(length)
        mask, device = self.attention_mask(length), language_model.input_device
        inputs |= {"attention_mask": None if mask is None else mask.to(device), "past_key_values": self}
        positions = torch.tensor(self.lengths)[:, None] + torch.arange(length)
        out = language_model(**inputs, position_ids=positions.to(device), use_cache=True)
        self.advance(length)
        return torch.as_tensor(out.logits)

    def truncate(self, length: int) -> None:
        """Keep only the first `length` tokens of the only row."""
        assert self.columns.rows == 1
        self.mask[:, self.columns.start + length :] = False
        self.columns.end = self.columns.start + length
        self.lengths = [length]

    def join(self, other: KVCache) -> None:
        """Take in the one row of another cache as the last row; the other must not be used any more."""
        columns, length = self.columns, other.lengths[0]
        used = max(columns.end - columns.start, length)
        reserved = self.num_reserved
        if columns.rows == reserved or columns.end < length:
            room = max(MIN_GROWTH, used // 4)
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

    def copy_row(self, row: int) -> KVCache:
        """A copy of one row as a cache of its own."""
        length, end = self.lengths[row], self.columns.end
        own = KVCache(length + MIN_GROWTH)
        for layer in self.layers:
            copy = _Layer(own.columns)
            window = slice(end - length, end)
            copy.update(layer.keys[row : row + 1, :, window], layer.values[row : row + 1, :, window])
            own.layers.append(copy)
        own.advance(length)
        return own

    def remove(self, row: int) -> None:
        """Drop a row; the last row moves to its place. At least one other row must remain."""
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
        fresh = []  # all are allocated before any is used, since memory may not suffice
        for old in self._tensors():
            fresh.append(old.new_zeros(reserved, old.shape[1], capacity, old.shape[3]))
            fresh[-1][:rows, :, first:last] = old[:rows, :, window]
        for layer in self.layers:
            layer.keys, layer.values, *fresh = fresh
        mask = torch.zeros(reserved, capacity, dtype=torch.bool)
        mask[:rows, first:last] = self.mask[:rows, window]
        self.mask = mask
        columns.start, columns.end, columns.capacity = first, last, capacity


class ConversationCache:
    """The keys and values of one conversation between its turns."""

    def __init__(self) -> None:
        self.keys: list[int] = []  # of what `kv` holds: token ids, and hashes below 0 of images' vectors
        self.kv: Rows | None = None
        self.token = secrets.token_hex(16)  # tells an engine which prompts belong together, and nothing else
        self.last_used, self.closed = time.monotonic(), False

    def close(self) -> None:
        """Drop the cache for good, even one that an answer is using."""
        self.closed = True
        self.drop()

    def drop(self) -> None:
        """Drop the cache; another may be put back."""
        self.kv, self.keys = None, []


class CacheStore:
    """All conversations' caches. A `ConversationCache` that nobody holds any more is gone from it.

    Args:
        max_idle_seconds: after which a cache is dropped.
        max_bytes: of all; those unused for longest are dropped first.
        make: the state that a conversation begins with, for so many tokens.
    """

    def __init__(
        self, max_idle_seconds: float, max_bytes: int, make: Callable[[int], Rows] = KVCache
    ) -> None:
        self.max_idle_seconds, self.max_bytes, self._make = max_idle_seconds, max_bytes, make
        self._lock, self._all = threading.Lock(), weakref.WeakSet[ConversationCache]()

    def new(self) -> ConversationCache:
        """A place for one conversation's cache."""
        cache = ConversationCache()
        with self._lock:
            self._all.add(cache)
        return cache

    def new_rows(self, capacity: int) -> Rows:
        """An empty row; where there is no room, the longest unused caches are dropped for it."""
        while True:
            try:
                return self._make(capacity)
            except MemoryError:
                held = [cache for cache in list(self._all) if cache.kv is not None]
                if not held:
                    raise
                min(held, key=lambda cache: cache.last_used).drop()

    @property
    def num_bytes(self) -> int:
        """Memory of all caches, except those that an answer is using."""
        with self._lock:
            return sum(cache.kv.num_bytes for cache in self._all if cache.kv is not None)

    @property
    def is_empty(self) -> bool:
        """Whether no cache is held."""
        return not any(cache.kv is not None for cache in list(self._all))

    def take(self, cache: ConversationCache, keys: Sequence[int]) -> tuple[Rows | None, int]:
        """Take a conversation's cache out; returns it and how many tokens it shares with the start of a prompt."""
        with self._lock:
            kv, cache.kv = cache.kv, None
            shared = takewhile(lambda pair: pair[0] == pair[1], zip(cache.keys, keys, strict=False))
            return kv, sum(1 for _ in shared) if kv is not None else 0

    def accepts(self, cache: ConversationCache) -> bool:
        """Whether a cache may be put back."""
        with self._lock:
            return not cache.closed and cache in self._all

    def put_back(self, cache: ConversationCache, keys: Sequence[int], kv: Rows) -> None:
        """Keep what was read of a conversation, unless it was closed."""
        with self._lock:
            if cache.closed or cache not in self._all:
                return
            cache.keys = list(keys[: kv.lengths[0]])
            cache.kv, cache.last_used = kv, time.monotonic()
            oldest_first = sorted((c for c in self._all if c.kv is not None), key=lambda c: c.last_used)
            excess = sum(c.kv.num_bytes for c in oldest_first if c.kv is not None) - self.max_bytes
            for oldest in oldest_first:
                if excess > 0 and oldest.kv is not None:
                    excess -= oldest.kv.num_bytes
                    oldest.drop()

    def drop_idle(self) -> None:
        """Drop the caches that have been idle for too long."""
        for cache in list(self._all):
            if cache.kv is not None and time.monotonic() - cache.last_used >= self.max_idle_seconds:
                cache.drop()

    def drop_all(self) -> bool:
        """Drop all of them; returns whether there were any."""
        with self._lock:
            held = [cache for cache in self._all if cache.kv is not None]
            for cache in held:
                cache.drop()
        torch.cuda.empty_cache()  # without CUDA it does nothing
        return bool(held)
