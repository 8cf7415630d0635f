"""Exact resume: what a run's checkpoint holds, and how the run continues from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator

from skingpt4.checkpoints import checkpoint, known_answer
from skingpt4.config.load import to_dict
from skingpt4.config.schema import Config
from skingpt4.model import lora
from skingpt4.training.prepare import Prepared
from skingpt4.training.run_folder import CHECKPOINTS, RunError


def save_checkpoint(
    config: Config, prepared: Prepared, optimizer: Any, accelerator: Accelerator, iteration: int
) -> Path:
    """Write a checkpoint after `iteration` iterations and delete old ones; returns its folder."""
    run_dir = Path(config.output_dir)
    path = run_dir / CHECKPOINTS / f"iteration_{iteration:07d}"
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


def restore(config: Config, prepared: Prepared, optimizer: Any) -> int:
    """Load the run's newest checkpoint, if it has one; returns the number of iterations done.

    Raises:
        RunError: the run was started on other data or from another parent.
    """
    run_dir, model = Path(config.output_dir), prepared.model
    if not checkpoint.saved(run_dir):
        return 0
    path = checkpoint.find(run_dir)
    tensors, card = checkpoint.load(path)
    for key, value in _origin(prepared).items():
        if card.get(key) != value:
            raise RunError(f"{run_dir}: was started with another {key}; start again with --overwrite")
    model.projection.load_state_dict(tensors)
    lora_settings = lora.settings_of(model.language_model)
    lora.restore(model.language_model, lora_settings, checkpoint.load_lora(path, card), str(path))
    known_answer.check(model, prepared.known_queries, card, str(path))
    # To the CPU: torch.load does not know accelerate's device `cpu:0`, and the optimiser moves its state itself.
    state = torch.load(path / checkpoint.STATE, map_location="cpu", weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    return card["iteration"]


def _origin(prepared: Prepared) -> dict[str, Any]:
    """What a run that is resumed must have in common with its checkpoint."""
    return {
        "data_sha256": prepared.data_sha256,
        "parent": prepared.parent,
        "lora": lora.settings_of(prepared.model.language_model),
        **prepared.identity,
    }
