"""The signals that end a run: the iteration in progress is finished and saved."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

from skingpt4.training.distributed.team import TRY_AGAIN, RunError

# SIGHUP: the terminal was closed. SIGUSR1: what Slurm's --signal usually sends before the time limit. SIGXCPU: the
# limit of CPU time (ulimit -t), which the kernel repeats each second until the hard limit.
# Windows knows the first two alone.
HANGUP, CPU_TIME = getattr(signal, "SIGHUP", None), getattr(signal, "SIGXCPU", None)
DOUBLED = 10.0  # seconds
STOPPING = tuple(
    number
    for number in (signal.SIGINT, signal.SIGTERM, HANGUP, getattr(signal, "SIGUSR1", None), CPU_TIME)
    if number is not None
)


class Stopped(RunError):
    """A signal ended the run before its last iteration; its state is saved.

    The status is 130 after Ctrl-C, else TRY_AGAIN.
    """

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.status = 130 if number == signal.SIGINT else TRY_AGAIN


class StopSignal:
    """Notes the first signal that ends a run, so that the iteration in progress is finished and saved.

    A second one acts as usual, except SIGXCPU, and except within DOUBLED seconds, if it is not Ctrl-C's: Slurm
    signals every process of a step, and torchrun passes on what it has received itself.

    Attributes:
        number: of the first signal that this process received, or None.
    """

    number: int | None = None

    def __enter__(self) -> StopSignal:
        self.number = None
        self._handlers: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            ignores_hangup = HANGUP and signal.getsignal(HANGUP) == signal.SIG_IGN  # started by nohup
            numbers = (n for n in STOPPING if not (n == HANGUP and ignores_hangup))
            self._handlers = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number, self._since = number, time.monotonic()
        elif number not in (signal.SIGINT, CPU_TIME) and time.monotonic() - self._since > DOUBLED:
            signal.signal(number, self._handlers[number])
            signal.raise_signal(number)
        if number == signal.SIGINT:
            signal.signal(number, self._handlers[number])

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def ignore_interrupt(worker: int) -> None:
    """For the loader's worker processes: some signals reach the whole group, only the main process acts on them."""
    del worker
    for number in STOPPING:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
