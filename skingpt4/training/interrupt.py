"""Ctrl-C and SIGTERM end a run between two iterations, after a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator


class StopSignal:
    """Notes the first Ctrl-C or SIGTERM, so that the iteration in progress is finished; the second acts as usual."""

    def __enter__(self) -> StopSignal:
        self._received = False
        self._handlers: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            numbers = (signal.SIGINT, signal.SIGTERM)
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
    """For the loader's worker processes: Ctrl-C reaches the whole group, only the main process acts on it."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
