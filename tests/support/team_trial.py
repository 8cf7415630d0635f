"""What the processes of a team find out, written as JSON; run in two processes by test_processes.py."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState

from skingpt4.support.errors import UserError
from skingpt4.training.distributed.team import Team

TIME_OUT = 2.0  # seconds, of collectives


def main(argv: list[str]) -> int:
    """Write `argv[0]`/RANK.json."""
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=TIME_OUT))
    team = Team.of(PartialState(cpu=True))
    seen: dict[str, object] = {"rank": team.rank, "leads": team.leads}

    def fail() -> None:
        raise UserError("the disk is full")

    def message(work) -> str:
        try:
            return str(work())
        except UserError as error:
            return f"refused: {error}"

    def items(failing: int):
        yield "first"
        if team.rank == failing:
            raise UserError("no such picture")
        yield "second"

    seen["result"] = team.by_first(lambda: f"of {team.rank}")
    seen["failure"] = message(lambda: team.by_first(fail))
    seen["any"] = [team.any(team.rank == 1), team.any(False)]
    seen["same"] = message(lambda: team.require_same({"data": 1, "seed": 2}))
    seen["differing"] = message(lambda: team.require_same({"data": team.rank, "seed": 2}))
    seen["together"] = list(team.together(items(failing=-1)))
    seen["one fails"] = message(lambda: list(team.together(items(failing=1))))
    began = time.monotonic()
    if team.leads:
        time.sleep(2 * TIME_OUT)
    team.wait()
    seen["waited"] = time.monotonic() - began
    if team.leads:
        time.sleep(2 * TIME_OUT)
    try:
        torch.distributed.barrier()
        seen["barrier"] = "passed"
    except RuntimeError:
        seen["barrier"] = "timed out"
    (Path(argv[0]) / f"{team.rank}.json").write_text(json.dumps(seen))
    return 0
