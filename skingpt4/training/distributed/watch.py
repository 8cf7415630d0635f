"""A process that is gone ends the others within seconds.

A collective with a process that was killed fails at once over gloo; over NCCL it waits until its time-out, and a
process of another machine is not seen by this one's launcher. So each process waits, in a thread, for a last word of
the next one: the connection breaks when that process ends without it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch

from skingpt4.training.distributed.signals import Stopped
from skingpt4.training.distributed.team import TRY_AGAIN, RunError, Team

NOTICED_SECONDS = 3.0  # in which a broken connection is noticed here after a collective failed
GRACE_SECONDS = 10.0  # for this process to end by itself, a file that it writes included
FOREVER = timedelta(days=3650)


class Lost(RunError):
    """Another process of the run has ended, so this one cannot continue; what was saved can be resumed."""

    status = TRY_AGAIN


@contextmanager
def watched(team: Team) -> Iterator[None]:
    """While the processes of a run work together; all of them enter, and leave together unless one fails.

    Raises:
        Lost: a collective failed because another process has ended. Where the process is stuck in the collective, the
            sentence is printed and the process ended with the same status.
    """
    if team.world == 1:
        yield
        return
    watch = _Watch(team)
    try:
        yield
    except RuntimeError as error:  # what collectives raise, whatever the backend
        if watch.lost.wait(NOTICED_SECONDS):
            raise Lost(watch.sentence) from error
        raise
    except Stopped:  # which all of them are, after the same iteration
        watch.say_goodbye()
        raise
    else:
        watch.say_goodbye()
    finally:
        watch.leaving.set()


class _Watch:
    """Waits for the next process's last word, and gives this one's to the process before."""

    def __init__(self, team: Team) -> None:
        self.group = torch.distributed.new_group(backend="gloo", timeout=FOREVER)
        self.before, self.next = (team.rank - 1) % team.world, (team.rank + 1) % team.world
        self.sentence = (
            f"process {self.next} of {team.world} has ended, and the others cannot continue without it; its own "
            "message, or the system's if it was killed, says why; once this is fixed, start the same again "
            "(train.py with --resume)"
        )
        self.lost, self.leaving = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._wait, daemon=True)
        self.thread.start()

    def say_goodbye(self) -> None:
        """Leave in order: returns when the next process leaves too, or is gone."""
        self.leaving.set()
        try:
            torch.distributed.send(torch.zeros(1), self.before, group=self.group)
        except RuntimeError:
            return  # it is gone; what this process had to do is done
        self.thread.join()

    def _wait(self) -> None:
        try:
            torch.distributed.recv(torch.zeros(1), self.next, group=self.group)
        except RuntimeError:
            if self.leaving.is_set():
                return
            self.lost.set()
            time.sleep(GRACE_SECONDS)
            print(f"error: {self.sentence}", file=sys.stderr, flush=True)
            os._exit(TRY_AGAIN)
