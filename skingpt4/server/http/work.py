"""Work for a request: in a thread, and only as long as its client listens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect, Request

NUM_THREADS = 400  # so that no request waits for a thread
Result = TypeVar("Result")


async def in_thread(work: Callable[[], Result]) -> Result:
    """Do blocking work in a thread; it is left running when the server ends."""
    limiter = anyio.to_thread.current_default_thread_limiter()
    limiter.total_tokens = max(limiter.total_tokens, NUM_THREADS)
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)


async def while_connected(
    request: Request, work: Awaitable[Result], on_leave: Callable[[], None] | None = None
) -> Result:
    """Wait for work on behalf of a client whose request has been read.

    Args:
        request: the client's.
        work: what is waited for.
        on_leave: ends the work soon if the client leaves; by default it is cancelled.

    Raises:
        ClientDisconnect: the client left.
        Exception: what the work raises.
    """
    results: list[Result] = []
    failure: Exception | None = None
    has_left = False
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            nonlocal has_left
            while (await request.receive())["type"] != "http.disconnect":
                pass
            has_left = True
            (on_leave or group.cancel_scope.cancel)()

        group.start_soon(watch)
        try:
            results.append(await work)
        except Exception as error:  # raised below: a task group would wrap it into an ExceptionGroup
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not results or (has_left and on_leave is not None):
        raise ClientDisconnect
    return results[0]  # also for a client that has left: it may be something to give back
