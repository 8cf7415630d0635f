"""Units of work, some at the same time, whose results come one by one in the order in which they end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import TypeVar

from skingpt4.support.errors import UserError, is_out_of_memory

U = TypeVar("U")
R = TypeVar("R")


def outcomes(
    todo: deque[U], work: Callable[[U], Iterator[R]], num_workers: int
) -> Iterator[tuple[U, R | Exception | None]]:
    """Every result of every unit, then for each unit None where it ended well, or why it failed.

    Units are taken from `todo`; clear it to begin no further one. One worker is the calling thread itself.

    Raises:
        BaseException: what a unit raised that is neither a `UserError` nor a lack of memory.
    """
    if num_workers == 1:
        while todo:
            yield from _results(todo.popleft(), work)
        return
    ended = SimpleQueue[tuple[U, R | Exception | None] | BaseException | None]()
    num_workers = min(num_workers, len(todo))
    for _ in range(num_workers):
        # A daemon: a server that hangs does not keep a stopped command from ending.
        threading.Thread(target=_work, args=(todo, work, ended), daemon=True).start()
    try:
        while num_workers:
            result = ended.get()
            if result is None:
                num_workers -= 1
            elif isinstance(result, BaseException):
                raise result
            else:
                yield result
    finally:
        todo.clear()


def _work(
    todo: deque[U],
    work: Callable[[U], Iterator[R]],
    ended: SimpleQueue[tuple[U, R | Exception | None] | BaseException | None],
) -> None:
    try:
        while True:
            try:
                unit = todo.popleft()
            except IndexError:
                break
            for result in _results(unit, work):
                ended.put(result)
    except BaseException as error:
        ended.put(error)
    ended.put(None)


def _results(unit: U, work: Callable[[U], Iterator[R]]) -> Iterator[tuple[U, R | Exception | None]]:
    try:
        for result in work(unit):
            yield unit, result
    except Exception as error:
        if not (isinstance(error, UserError) or is_out_of_memory(error)):
            raise
        yield unit, error
    else:
        yield unit, None
