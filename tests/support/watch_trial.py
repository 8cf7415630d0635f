"""Processes that end together, or where one is killed; run by tests/skingpt4/training/distributed/test_watch.py."""

from __future__ import annotations

import os
import signal
import time

import torch
from accelerate import PartialState

from skingpt4.support.errors import reported
from skingpt4.training.distributed import watch
from skingpt4.training.distributed.signals import Stopped
from skingpt4.training.distributed.team import Team


def main(argv: list[str]) -> int:
    """What `argv[0]` names; the exit status is a command's."""
    torch.distributed.init_process_group("gloo")
    team = Team.of(PartialState(cpu=True))
    with reported() as status:
        if argv[0] == "together":
            for _ in range(2):  # the steps of a recipe
                with watch.watched(team):
                    time.sleep(0.5 * team.rank)
        elif argv[0] == "stopped":  # by a signal, after the same iteration
            with watch.watched(team):
                time.sleep(0.5 * team.rank)
                raise Stopped("saved")
        elif argv[0] == "collective":
            with watch.watched(team):
                if team.rank == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                team.wait()
        elif argv[0] == "stuck":  # as in a collective of NCCL, which does not notice
            watch.GRACE_SECONDS = 0.5
            with watch.watched(team):
                if team.rank == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(300)
        elif argv[0] == "another error":
            with watch.watched(team):
                raise ValueError("not of a collective")
        print("left", flush=True)
    return status.code
