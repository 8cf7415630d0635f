"""The caches of conversations between their turns: what is dropped when, and by whom."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence

import torch

from skingpt4.generation.cache import Rows


class Kept:
    """The keys and values of one conversation between its turns; closed when the conversation ends."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.ids: list[int] = []  # of what `rows` holds; below 0 for a picture's vectors, by their content
        self.rows: Rows | None = None
        self.used = time.monotonic()
        self.closed = False

    def close(self) -> None:
        """Drop the cache for good, also one that an answer still uses."""
        self.closed, self.rows, self.ids = True, None, []


class KeptCaches:
    """All conversations' caches; one whose `Kept` nobody holds any more is gone with it."""

    def __init__(self, max_idle_seconds: float, max_bytes: int) -> None:
        """Hold none.

        Args:
            max_idle_seconds: after which a cache is dropped.
            max_bytes: of all; those unused for longest are dropped first.
        """
        self.max_idle_seconds, self.max_bytes = max_idle_seconds, max_bytes
        self._lock = threading.Lock()
        self._all: weakref.WeakSet[Kept] = weakref.WeakSet()

    def new(self) -> Kept:
        """A place for one conversation's cache."""
        kept = Kept()
        with self._lock:
            self._all.add(kept)
        return kept

    @property
    def num_bytes(self) -> int:
        """Memory of all caches, those in use by an answer left out."""
        with self._lock:
            return sum(kept.rows.num_bytes for kept in self._all if kept.rows is not None)

    @property
    def is_empty(self) -> bool:
        """Whether no cache is held."""
        return not any(kept.rows is not None for kept in list(self._all))

    def take(self, kept: Kept, keys: Sequence[int]) -> tuple[Rows | None, int]:
        """Take a conversation's cache out; returns it and how many tokens it shares with a prompt's beginning."""
        with self._lock:
            rows, kept.rows = kept.rows, None
            return rows, _num_shared(kept.ids, keys) if rows is not None else 0

    def wants(self, kept: Kept) -> bool:
        """Whether a cache may be put back."""
        with self._lock:
            return not kept.closed and kept in self._all

    def put_back(self, kept: Kept, ids: Sequence[int], rows: Rows) -> None:
        """Keep what was read of a conversation, unless it was closed."""
        with self._lock:
            if kept.closed or kept not in self._all:
                return
            kept.ids = list(ids[: rows.lengths[0]])
            kept.rows, kept.used = rows, time.monotonic()
            held = sorted((k for k in self._all if k.rows is not None), key=lambda k: k.used)
            too_much = sum(k.rows.num_bytes for k in held if k.rows is not None) - self.max_bytes
            for oldest in held:
                if too_much > 0 and oldest.rows is not None:
                    too_much -= oldest.rows.num_bytes
                    oldest.rows, oldest.ids = None, []

    def drop_idle(self) -> None:
        """Drop those that were not used for long."""
        for kept in list(self._all):
            if kept.rows is not None and time.monotonic() - kept.used >= self.max_idle_seconds:
                kept.rows, kept.ids = None, []

    def drop_all(self) -> bool:
        """Drop all of them; returns whether there were any."""
        with self._lock:
            held = [kept for kept in self._all if kept.rows is not None]
            for kept in held:
                kept.rows, kept.ids = None, []
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return bool(held)


def _num_shared(first: Sequence[int], second: Sequence[int]) -> int:
    """The length of the common beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))
