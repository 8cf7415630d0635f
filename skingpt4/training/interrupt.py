"""Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 end a run between two iterations, after a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

# SIGHUP: the terminal was closed. SIGUSR1: what Slurm's --signal usually sends before the time limit.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class StopSignal:
    """Notes the first of these signals, so that the iteration in progress is finished; the second acts as usual."""

    def __enter__(self) -> StopSignal:
        self._received = False
        self._handlers: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            ignores_hangup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # started by nohup
            numbers = (n for n in STOPPING if not (n == signal.SIGHUP and ignores_hangup))
            self._handlers = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = True
        signal.signal(number, self._handlers[number])

    def received(self, accelerator: Accelerator) -> bool:
        """Whether any process of the run received one; all processes must ask together."""
        if accelerator.num_processes == 1:
            return self._received
        flag = torch.tensor(float(self._received), device=accelerator.device)
        return bool(accelerator.reduce(flag).item())

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def ignore_interrupt(worker: int) -> None:
    """For the loader's worker processes: some signals reach the whole group, only the main process acts on them."""
    del worker
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
