"""Exact resume: what a run's checkpoint holds, and how all processes of a run begin from it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from skingpt4.checkpoints import checkpoint, known_answer
from skingpt4.checkpoints.checkpoint import CheckpointError
from skingpt4.config.load import to_dict
from skingpt4.config.schema import Config
from skingpt4.model import lora
from skingpt4.model.network import SkinGPT4
from skingpt4.support.errors import UserError
from skingpt4.training.distributed.team import RunError, Team
from skingpt4.training.prepare import Prepared
from skingpt4.training.resuming.run_folder import CHECKPOINTS
from skingpt4.training.resuming.same_run import batch_facts, batch_problem, computed
from skingpt4.weights.files.tensors import WeightsMismatch

logger = logging.getLogger(__name__)

# What a card has under a name that says little to its reader.
NAMES = {
    "data_sha256": "content of data.train",
    "validation_sha256": "content of data.validation",
    "parent": "content of initial_checkpoint",
    "encoder": "image encoder (content of vision.weights and qformer.weights)",
    "lora": "LoRA settings",
}


def save_checkpoint(config: Config, prepared: Prepared, optimizer: Any, team: Team, iteration: int) -> Path:
    """Write a checkpoint after `iteration` iterations and delete old ones; returns its folder.

    Raises:
        RunError: the processes' trained tensors are not the same any more.
        OSError: it cannot be written.
    """
    path = Path(config.output_dir) / CHECKPOINTS / _name(iteration)
    team.require_same({"trained tensors": _digest(prepared.model)})
    # By all of them: processes that share the layers compute together.
    answer = known_answer.measure(prepared.model, prepared.known_queries, config.prompt.template)
    team.by_first(lambda: _write(path, config, prepared, optimizer, team.world, iteration, answer))
    return path


def _write(
    path: Path,
    config: Config,
    prepared: Prepared,
    optimizer: Any,
    num_processes: int,
    iteration: int,
    answer: dict[str, Any],
) -> None:
    model = prepared.model
    card = {
        "step": config.step,
        "iteration": iteration,
        "num_trainable": model.num_parameters()[0],
        **batch_facts(config, num_processes),
        **origin(prepared),
        "parts": prepared.parts,
        **prepared.taught,
        "known_answer": answer,
        "git_revision": checkpoint.git_revision(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "config": to_dict(config),
    }
    state = {"optimizer": optimizer.state_dict()}
    if model.input_map is not None:  # the checkpoint's plain layers are rounded: the run continues from these
        state |= {"projection": model.projection.state_dict(), "input_map": model.input_map.state_dict()}
    lora_tensors = lora.trainable(model.language_model)
    checkpoint.save(path, model.plain_projection(), card, state, lora_tensors, prepared.seen)
    checkpoint.prune(Path(config.output_dir), config.log.keep_checkpoints)


def _trained(model: SkinGPT4) -> dict[str, Tensor]:
    """The trained tensors by name, on the CPU: the projection and the branches of LoRA."""
    parameters = model.named_parameters()
    return {name: parameter.detach().cpu() for name, parameter in parameters if parameter.requires_grad}


def _digest(model: SkinGPT4) -> str:
    """SHA-256 of the trained tensors' bits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_trained(model).items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_after_failure(save: Callable[[], Path], iteration: int, team: Team) -> None:
    """Save a run that failed between two iterations, and report where, or why that is not possible.

    Args:
        save: saves the run, returns the checkpoint's folder; all processes take part.
        iteration: iterations that are done.
        team: the processes; the first one reports.
    """
    try:
        path = save()
        note = f"note: saved after iteration {iteration} in {path}"
    except (OSError, UserError) as error:
        note = f"note: iteration {iteration} could not be saved ({error})"
    if team.leads:
        logger.warning(note)


def begin(config: Config, prepared: Prepared, optimizer: Any, team: Team, resume: bool) -> int:
    """Bring all processes to the same start, the first process's; returns the number of iterations done.

    Args:
        config: of the run.
        prepared: everything else that it computes with.
        optimizer: whose state is restored.
        team: the processes of the run. Only the first one reads the run's folder.
        resume: start from the run's newest intact checkpoint, if it has any.

    Raises:
        RunError: the run was started on other data or from another parent, none of its checkpoints is intact, or the
            processes do not have the same data, weights and configuration.
    """
    run_dir, model = Path(config.output_dir), prepared.model
    content = {NAMES.get(key, key): _content(value) for key, value in origin(prepared).items()}
    team.require_same(computed(to_dict(config)) | content)
    saved = team.by_first(lambda: _newest_intact(run_dir)) if resume else None
    if saved is None:
        first = team.by_first(lambda: _trained(model))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in first:
                    parameter.copy_(first[name])
        return 0
    card = saved.card
    problem = batch_problem(card, to_dict(config), team.world) or content_problem(card, prepared)
    if problem:
        raise RunError(f"{run_dir}: {problem}")
    model.projection.load_state_dict(saved.state.get("projection", saved.tensors))
    if model.input_map is not None:
        model.input_map.load_state_dict(saved.state["input_map"])
    lora.restore(model.language_model, lora.settings_of(model.language_model), saved.lora, str(saved.path))
    known_answer.check(model, prepared.known_queries, card, str(saved.path))
    optimizer.load_state_dict(saved.state["optimizer"])
    _report_changes(card, config, prepared)
    return int(card["iteration"])


def _report_changes(card: Mapping[str, Any], config: Config, prepared: Prepared) -> None:
    """Add notes on what may change and yet is worth a line."""
    before = (card.get("known_answer") or {}).get("dtype")
    here = known_answer.precision(prepared.model.language_model)
    if before not in (None, here):
        prepared.notes.append(
            f"the language model computes in {here} here, and in {before} before (language.dtype)"
        )
    epochs = card["config"]["optim"]["max_epoch"]
    if epochs != config.optim.max_epoch:
        prepared.notes.append(
            f"optim.max_epoch is {config.optim.max_epoch} and was {epochs}: from iteration {card['iteration']} on, "
            "the learning rate follows the longer schedule"
        )


@dataclass
class _Saved:
    """Everything that a run needs of a checkpoint, verified."""

    path: Path
    tensors: dict[str, Tensor]
    card: dict[str, Any]
    lora: dict[str, Tensor]
    state: dict[str, Any]

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
        return cls(path, tensors, card, checkpoint.load_lora(path, card), state)


def _name(iteration: int) -> str:
    return f"iteration_{iteration:07d}"


def _newest_intact(run_dir: Path) -> _Saved | None:
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
    if saved:
        for path, reason in damaged.items():
            checkpoint.set_aside(path)
            logger.warning("note: %s; continuing from %s", reason, saved.path)
    return saved


def origin(prepared: Prepared) -> dict[str, Any]:
    """What a card stores of the content that a run computes with."""
    language_model = prepared.model.language_model
    capped = getattr(language_model.config, "attn_logit_softcapping", None)
    return {
        "data_sha256": prepared.data_sha256,
        "validation_sha256": prepared.validation_sha256,
        "parent": prepared.parent,
        "lora": lora.settings_of(language_model),
        # Only where attentions differ in more than rounding: all but eager leave Gemma 2's cap out.
        "attention": language_model.config._attn_implementation if capped else None,
        **prepared.identity,
    }


def content_problem(card: Mapping[str, Any], prepared: Prepared) -> str | None:
    """Why a run cannot be continued on this content, as a sentence; None if it can.

    A key that the card does not have is newer than the checkpoint and is not compared.
    """
    differing = [
        NAMES.get(key, key)
        for key, value in origin(prepared).items()
        if key in card and _content(card[key]) != _content(value)
    ]
    return (
        f"was started with another {', another '.join(differing)}; start again with --overwrite"
        if differing
        else None
    )


def _content(fact: Any) -> Any:
    """A fact without where it is: a checkpoint's `path`, a language model's `name`."""
    return {k: v for k, v in fact.items() if k not in ("path", "name")} if isinstance(fact, dict) else fact
