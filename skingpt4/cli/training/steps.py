"""The steps of a recipe one after the other: what is finished is skipped, what is not is resumed."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from skingpt4.checkpoints import checkpoint
from skingpt4.config.load import to_yaml
from skingpt4.config.recipe import Step
from skingpt4.doctor.dry_run import dry_run
from skingpt4.training.distributed.team import RunError
from skingpt4.training.loop import run
from skingpt4.training.resuming import run_folder

logger = logging.getLogger(__name__)


def dry_run_all(title: str, steps: Sequence[Step]) -> tuple[str, bool]:
    """The report of `dry_run` on each step, and whether something would stop one of them."""
    reports, stopped = [], False
    for number, step in enumerate(steps, 1):
        report, stops = dry_run(f"{title}, {_name(number, steps)}", step.config, follows=number > 1)
        reports.append("\n".join([report, *(f"note: {note}" for note in step.notes)]))
        stopped = stopped or stops
    return "\n\n".join(reports), stopped


def run_all(steps: Sequence[Step], overwrite: bool = False) -> Path:
    """Train the steps in order; returns the last checkpoint's folder.

    Args:
        steps: of the recipe.
        overwrite: delete their runs first.

    Raises:
        RunError: a finished step was trained from another checkpoint than the step before now has, or what `run`
            raises.
    """
    leads = int(os.environ.get("RANK", 0)) == 0
    parent: str | None = None  # the hash of the last step's tensors
    try:
        for number, step in enumerate(steps, 1):
            notes = [_name(number, steps), *step.notes]
            config, folder = step.config, Path(step.config.output_dir)
            done = run_folder.finished(folder, config.optim.max_epoch * config.optim.iters_per_epoch)
            if done and not overwrite:
                run_folder.check(folder, to_yaml(config), resume=True, overwrite=False)
                notes.append(f"complete in {folder}, skipped")
                _require_parent(done, parent, folder)
            if leads:
                logger.info("%s", "; ".join(notes))
            if not done or overwrite:
                run(config, resume=not overwrite, overwrite=overwrite, is_last=False)
                gc.collect()  # the step's network, before the next one's is loaded
                torch.cuda.empty_cache()
            last = checkpoint.find(folder)
            parent = checkpoint.load(last)[1]["tensors_sha256"]
    finally:
        if torch.distributed.is_initialized():
            PartialState().destroy_process_group()
    return last


def _name(number: int, steps: Sequence[Step]) -> str:
    return f"step {number} of {len(steps)}: {steps[number - 1].name}"


def _require_parent(card: dict[str, Any], parent: str | None, folder: Path) -> None:
    theirs = (card.get("parent") or {}).get("tensors_sha256")
    if parent is not None and theirs != parent:
        raise RunError(
            f"{folder}: is complete, and was not trained from the step before as it is now; add --overwrite to train "
            "all steps again, or name another --output-dir"
        )
