"""What the requests share: memory for bodies, places for answers, turns at costly preparation."""

from __future__ import annotations

import heapq
import itertools
import time
from types import TracebackType

import anyio


class LineFull(Exception):
    """Too many wait already."""


class Pool:
    """A capacity that requests hold parts of; the others wait in line.

    Whoever expects to use it for a short time goes before whoever came up to that much earlier and expects more. So a
    large request cannot delay many small ones, and is served in the end. Only the event loop uses a pool.

    Args:
        capacity: in any unit.
        max_waiting: if the line is longer, the last in it is refused.
    """

    def __init__(self, capacity: int, max_waiting: int) -> None:
        self.capacity = self.free = capacity
        self.max_waiting = max_waiting
        self._line: list[tuple[float, int, Hold]] = []
        self._numbers = itertools.count()

    @property
    def num_waiting(self) -> int:
        """How many stand in line."""
        return len(self._line)

    async def hold(self, amount: int = 1, expected_seconds: float = 0.0) -> Hold:
        """Wait until that amount is free, and take it; leave the `with` block of the result to give it back.

        Raises:
            LineFull: too many who come earlier wait as well.
        """
        hold = Hold(self, min(amount, self.capacity))
        heapq.heappush(self._line, (time.monotonic() + expected_seconds, next(self._numbers), hold))
        self._serve()
        if len(self._line) > self.max_waiting:
            max(self._line)[2].refuse()
        try:
            await hold.decided.wait()
        except BaseException:
            hold.release()
            raise
        if not hold.granted:
            raise LineFull
        return hold

    def give_back(self, hold: Hold) -> None:
        """Let others have what a hold had, or take it out of the line."""
        if hold.granted:
            self.free += hold.amount
        else:
            self._line = [place for place in self._line if place[2] is not hold]
            heapq.heapify(self._line)
        self._serve()

    def _serve(self) -> None:
        while self._line and self._line[0][2].amount <= self.free:
            hold = heapq.heappop(self._line)[2]
            self.free -= hold.amount
            hold.granted = True
            hold.decided.set()


class Hold:
    """A part of a pool's capacity."""

    def __init__(self, pool: Pool, amount: int) -> None:
        self.pool, self.amount = pool, amount
        self.decided, self.granted = anyio.Event(), False
        self._released = False

    def refuse(self) -> None:
        """End the waiting without success."""
        self.release()
        self.decided.set()

    def release(self) -> None:
        """Give it back; a second time does nothing."""
        if not self._released:
            self._released = True
            self.pool.give_back(self)

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
