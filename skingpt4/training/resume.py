"""Exact resume: what a run's checkpoint holds, and how the run continues from it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from torch import Tensor

from skingpt4.checkpoints import checkpoint, known_answer
from skingpt4.checkpoints.checkpoint import CheckpointError
from skingpt4.config.load import to_dict
from skingpt4.config.schema import Config
from skingpt4.model import lora
from skingpt4.support.errors import UserError
from skingpt4.training.prepare import Prepared
from skingpt4.training.run_folder import CHECKPOINTS, RunError
from skingpt4.weights.files.tensors import WeightsMismatch

logger = logging.getLogger(__name__)


def save_checkpoint(
    config: Config, prepared: Prepared, optimizer: Any, accelerator: Accelerator, iteration: int
) -> Path:
    """Write a checkpoint after `iteration` iterations and delete old ones; returns its folder."""
    run_dir = Path(config.output_dir)
    path = run_dir / CHECKPOINTS / _name(iteration)
    if accelerator.is_main_process:
        model = prepared.model
        card = {
            "step": config.step,
            "iteration": iteration,
            "num_trainable": model.num_parameters()[0],
            **_origin(prepared),
            "known_answer": known_answer.measure(model, prepared.known_queries, config.prompt.template),
            "git_revision": checkpoint.git_revision(),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "config": to_dict(config),
        }
        state = {"optimizer": optimizer.state_dict()}
        lora_tensors = lora.trainable(model.language_model)
        checkpoint.save(path, model.projection.state_dict(), card, state, lora_tensors, prepared.seen)
        checkpoint.prune(run_dir, config.log.keep_checkpoints)
    accelerator.wait_for_everyone()
    return path


def save_after_failure(save: Callable[[], Path], iteration: int, accelerator: Accelerator) -> None:
    """Save a run that failed between two iterations, and report where, or why that is not possible.

    Args:
        save: saves the run, returns the checkpoint's folder.
        iteration: iterations that are done.
        accelerator: of the run.
    """
    if accelerator.num_processes > 1:  # saving takes all of them
        logger.warning("note: iteration %d is not saved, all processes would have to take part", iteration)
        return
    try:
        path = save()
    except (OSError, UserError) as error:
        logger.warning("note: iteration %d could not be saved (%s)", iteration, error)
    else:
        logger.warning("note: saved after iteration %d in %s", iteration, path)


def restore(config: Config, prepared: Prepared, optimizer: Any, accelerator: Accelerator) -> int:
    """Load the run's newest intact checkpoint, if it has any; returns the number of iterations done.

    Raises:
        RunError: the run was started on other data or from another parent, or none of its checkpoints is intact.
    """
    run_dir, model = Path(config.output_dir), prepared.model
    saved = _newest_intact(run_dir, accelerator)
    if saved is None:
        return 0
    path, card = saved.path, saved.card
    for key, value in _origin(prepared).items():
        if card.get(key) != value:
            raise RunError(f"{run_dir}: was started with another {key}; start again with --overwrite")
    model.projection.load_state_dict(saved.tensors)
    lora_settings = lora.settings_of(model.language_model)
    lora.restore(model.language_model, lora_settings, saved.lora, str(path))
    known_answer.check(model, prepared.known_queries, card, str(path))
    optimizer.load_state_dict(saved.optimizer)
    return card["iteration"]


@dataclass
class _Saved:
    """Everything that a run needs of a checkpoint, verified."""

    path: Path
    tensors: dict[str, Tensor]
    card: dict[str, Any]
    lora: dict[str, Tensor]
    optimizer: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> _Saved:
        """Read a checkpoint completely.

        Raises:
            CheckpointError, WeightsMismatch: something is damaged or missing.
        """
        tensors, card = checkpoint.load(path)
        iteration = card.get("iteration")
        if not isinstance(iteration, int) or path.name != _name(iteration):
            raise CheckpointError(f"{path / checkpoint.CARD}: is damaged, its iteration is {iteration}")
        state = checkpoint.load_state(path, card)
        return cls(path, tensors, card, checkpoint.load_lora(path, card), state["optimizer"])


def _name(iteration: int) -> str:
    return f"iteration_{iteration:07d}"


def _newest_intact(run_dir: Path, accelerator: Accelerator) -> _Saved | None:
    """The run's newest checkpoint that is intact; newer ones that are damaged are reported and set aside.

    Raises:
        RunError: there are checkpoints, but none is intact.
    """
    damaged: dict[Path, str] = {}
    saved = None
    for path in sorted((run_dir / CHECKPOINTS).glob("iteration_*"), reverse=True):
        try:
            saved = _Saved.read(path)
            break
        except (CheckpointError, WeightsMismatch) as error:
            damaged[path] = str(error)
    if damaged and saved is None:
        reason = next(iter(damaged.values()))
        raise RunError(
            f"{run_dir}: none of its checkpoints is intact; start again with --overwrite ({reason})"
        )
    accelerator.wait_for_everyone()  # all processes have chosen before anything is renamed
    if saved and accelerator.is_main_process:
        for path, reason in damaged.items():
            checkpoint.set_aside(path)
            logger.warning("note: %s; continuing from %s", reason, saved.path)
    return saved


def _origin(prepared: Prepared) -> dict[str, Any]:
    """What a run that is resumed must have in common with its checkpoint."""
    return {
        "data_sha256": prepared.data_sha256,
        "parent": prepared.parent,
        "lora": lora.settings_of(prepared.model.language_model),
        **prepared.identity,
    }
