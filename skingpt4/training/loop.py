"""Fine-tuning of the projection (and LoRA, if asked for): one step of the paper's recipe from a configuration."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from skingpt4.checkpoints import checkpoint, known_answer
from skingpt4.checkpoints.paths import missing_paths
from skingpt4.config.compat import BEHAVIOURS, OURS, Behaviour
from skingpt4.config.load import to_dict, to_yaml
from skingpt4.config.schema import Config, ConfigError, OptimConfig
from skingpt4.model import lora
from skingpt4.model.language import describe_place, input_device
from skingpt4.model.loss import packing
from skingpt4.model.network import SkinGPT4
from skingpt4.support.errors import UserError
from skingpt4.training import compiled, run_folder
from skingpt4.training.batches import Collate, choose_batching
from skingpt4.training.features import Team
from skingpt4.training.prepare import Prepared, prepare
from skingpt4.training.samples import HeldOutSamples, batch_indices

MAX_SKIPPED = 20  # iterations in a row whose gradient is not finite, before a run gives up


class RunError(UserError):
    """A run that cannot start or go on; the message says what to do."""


class Stopped(RunError):
    """The run was interrupted; its state is saved."""

    status = 130


def learning_rate(iteration: int, optim: OptimConfig, behaviour: Behaviour = OURS) -> float:
    """Linear warm-up by iteration, then cosine counted from iteration 0, as in LAVIS.

    Args:
        iteration: from 0, over all epochs.
        optim: `warmup_lr`, `init_lr`, `min_lr`, `warmup_steps` and the run's length.
        behaviour: whether the warm-up begins anew with each epoch.
    """
    if iteration < optim.warmup_steps:
        warm = iteration % optim.iters_per_epoch if behaviour.warmup_restarts else iteration
        return optim.warmup_lr + (optim.init_lr - optim.warmup_lr) * warm / optim.warmup_steps
    done = iteration / (optim.max_epoch * optim.iters_per_epoch)
    return optim.min_lr + (optim.init_lr - optim.min_lr) * 0.5 * (1.0 + math.cos(math.pi * done))


def make_optimizer(model: SkinGPT4, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW on what is trainable; weight decay on matrices, none on biases."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for _, p in named if p.dim() > 1], "weight_decay": optim.weight_decay},
        {"params": [p for _, p in named if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optim.init_lr, betas=(optim.beta1, optim.beta2))


def train_step(
    model: SkinGPT4,
    optimizer: Any,
    micro_batches: Sequence[dict[str, Tensor]],
    accelerator: Accelerator,
    max_norm: float,
    behaviour: Behaviour = OURS,
) -> dict[str, float]:
    """One optimiser step on the mean loss over all supervised tokens of all micro-batches and processes.

    A gradient that is not finite changes nothing: the step is left out. The original's behaviour takes each batch's
    own mean, adds these up over micro-batches and does not clip.

    Returns:
        loss (nats a token), num_tokens (supervised), gradient_norm (before clipping; not finite: left out).
    """
    count = sum(int((batch["labels"][:, 1:] >= 0).sum()) for batch in micro_batches)
    total = accelerator.reduce(torch.tensor(float(count), device=accelerator.device)).item()
    if not total:
        raise RunError("a batch has no supervised token; raise data.max_text_tokens or check the answers")
    loss_sum = torch.zeros((), device=accelerator.device)
    for batch in micro_batches:
        loss, tokens = model(**_moved(batch, accelerator.device))
        alone = float(tokens) * accelerator.num_processes
        accelerator.backward(loss / (alone if behaviour.mean_of_means else total))
        loss_sum += loss.detach()
    parameters = [p for p in model.parameters() if p.requires_grad]
    if accelerator.num_processes > 1:  # what is trained is small: one sum per tensor, no wrapper needed
        for p in parameters:
            p.grad = accelerator.reduce(p.grad)
    norm = float(accelerator.clip_grad_norm_(parameters, max_norm if behaviour.clips else math.inf))
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad()
    loss = accelerator.reduce(loss_sum).item() / total
    if not math.isfinite(loss):
        raise RunError(
            f"the loss became {loss}; use bfloat16 or float32 (language.dtype) or a smaller optim.init_lr"
        )
    return {"loss": loss, "num_tokens": total, "gradient_norm": norm}


def _moved(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A batch on a device; out of pinned memory the copy overlaps with what the GPU still computes."""
    return {key: value.to(device, non_blocking=True) for key, value in batch.items()}


@torch.no_grad()
def held_out_loss(
    model: SkinGPT4, samples: HeldOutSamples, batch_size: int, accelerator: Accelerator, collate: Collate
) -> float:
    """Mean loss (nats a token) over held-out samples, shared out among processes."""
    model.eval()
    mine = torch.utils.data.Subset(
        samples, range(accelerator.process_index, len(samples), accelerator.num_processes)
    )
    sums = torch.zeros(2, device=accelerator.device)
    for groups in DataLoader(mine, batch_size=batch_size, collate_fn=collate):
        for batch in groups:
            loss, count = model(**_moved(batch, accelerator.device))
            sums += torch.stack([loss, count.to(loss)])
    sums = accelerator.reduce(sums)
    model.train()
    return float(sums[0] / sums[1])


def run(config: Config, resume: bool = False, overwrite: bool = False) -> Path:
    """Train one step as configured; returns the last checkpoint's folder.

    Raises:
        RunDirError: `output_dir` holds another run.
        Stopped: interrupted by Ctrl-C or SIGTERM, after saving.
        RunError: the loss is not finite, or a batch teaches nothing.
    """
    accelerator = Accelerator(mixed_precision="no")  # in fp16 neither: `float16` scales inside the model
    if config.language.device_map is not None and accelerator.num_processes > 1:
        raise ConfigError(
            "language.device_map: spreads one process over devices; start it without accelerate"
        )
    folder = Path(config.output_dir)
    missing = missing_paths(config)
    if missing:
        raise ConfigError("missing: " + "; ".join(missing))
    run_folder.check(folder, to_yaml(config), resume, overwrite)
    team = Team(accelerator.process_index, accelerator.num_processes, accelerator.wait_for_everyone)
    prepared = prepare(config, accelerator.device, team)
    if accelerator.is_main_process:  # only now that nothing can refuse the run is an old one deleted
        run_folder.claim(folder, to_yaml(config), resume, overwrite)
    accelerator.wait_for_everyone()
    optimizer = accelerator.prepare_optimizer(make_optimizer(prepared.model, config.optim))
    start = _restore(folder, prepared, optimizer, accelerator) if resume else 0
    last = config.optim.max_epoch * config.optim.iters_per_epoch
    try:
        if start >= last:
            accelerator.print(f"{folder}: complete, {last} iterations; nothing to do")
            return checkpoint.find(folder)
        _announce(config, prepared, accelerator)
        return _loop(config, prepared, optimizer, accelerator, start, last)
    finally:
        accelerator.end_training()


def _announce(config: Config, prepared: Prepared, accelerator: Accelerator) -> None:
    for note in prepared.notes:
        accelerator.print(f"note: {note}")
    trainable, total = prepared.model.num_parameters()
    encoder = prepared.model.encoder
    accelerator.print(
        f"{config.step}: {len(prepared.training)} records, {trainable / 1e6:.2f} M of {total / 1e6:.0f} M "
        f"parameters trained, {accelerator.num_processes} x {accelerator.device}\n"
        f"language model: {describe_place(prepared.model.language_model)}; "
        f"encoder: {encoder.describe_place() if encoder else 'not needed, features are kept'}"
    )


def _loop(
    config: Config, prepared: Prepared, optimizer: Any, accelerator: Accelerator, start: int, last: int
) -> Path:
    optim, log, model, folder = config.optim, config.log, prepared.model, Path(config.output_dir)
    metrics = run_folder.Metrics(folder, start, log.tensorboard) if accelerator.is_main_process else None
    saved, behaviour = folder, BEHAVIOURS[config.compat]
    collate = _collate(config, model, behaviour)
    model.train()
    if compiled.wanted(config.language.compile, model.language_model, last):
        accelerator.print("compiling the layers, up to a minute (language.compile) ...")
        problem = compiled.compile_layers(model.language_model)
        accelerator.print(f"note: language.compile: {problem}; going on without" if problem else "compiled")
    began, loss, skipped = time.perf_counter(), math.nan, 0
    bar = tqdm(
        total=last, initial=start, desc=config.step, unit="it", disable=not accelerator.is_main_process
    )
    try:
        with bar, _StopFlag() as stop:
            batches = _batches(config, prepared, accelerator, collate, start, last)
            for iteration in range(start, last):
                rate = learning_rate(iteration, optim, behaviour)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                if config.lora.dropout:  # what is dropped is a function of (seed, iteration, process) too
                    mixed = np.random.SeedSequence([config.seed, iteration, accelerator.process_index])
                    torch.manual_seed(int(mixed.generate_state(1)[0]))
                micro_batches = [group for _ in range(optim.accumulation) for group in next(batches)]
                result = train_step(
                    model, optimizer, micro_batches, accelerator, optim.max_grad_norm, behaviour
                )
                done = iteration + 1
                skipped = 0 if math.isfinite(result["gradient_norm"]) else skipped + 1
                if skipped == MAX_SKIPPED:
                    raise RunError(
                        f"the gradient was not finite in {skipped} iterations in a row, the last is {done}; use "
                        "bfloat16 or float32 (language.dtype) or a smaller optim.init_lr"
                    )
                loss = result["loss"] if math.isnan(loss) else 0.9 * loss + 0.1 * result["loss"]
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}", lr=f"{rate:.1e}", refresh=False)
                if metrics and (done % log.every == 0 or done in (1, last) or skipped):
                    seconds = time.perf_counter() - began
                    if skipped:
                        result["skipped"] = True
                    metrics.write(
                        "train", done, **result, learning_rate=rate, seconds=seconds,
                        epoch=iteration // optim.iters_per_epoch,
                    )  # fmt: skip
                if prepared.held_out and _due(done, log.validate_every, optim.iters_per_epoch, last):
                    with compiled.as_written():
                        held = held_out_loss(model, prepared.held_out, optim.batch_size, accelerator, collate)
                    if metrics:
                        metrics.write("validation", done, loss=held)
                        bar.write(
                            f"iteration {done}: held-out loss {held:.3f} ({len(prepared.held_out)} records)"
                        )
                stopping = stop.is_set(accelerator)
                if stopping or _due(done, log.checkpoint_every, optim.iters_per_epoch, last):
                    with compiled.as_written():
                        saved = _save(config, prepared, optimizer, accelerator, done)
                if stopping and done < last:
                    raise Stopped(
                        f"stopped after iteration {done} of {last}; saved in {saved}; go on with --resume"
                    )
    finally:
        if metrics:
            metrics.close()
    return saved


def _due(done: int, every: int, iters_per_epoch: int, last: int) -> bool:
    return done == last or done % (every or iters_per_epoch) == 0


def _collate(config: Config, model: SkinGPT4, behaviour: Behaviour) -> Collate:
    """How batches are put together; where each batch's own mean counts, a batch stays in one piece.

    Raises:
        LanguageModelError: packing was asked of a family that mixes the samples of a row.
    """
    if behaviour.mean_of_means:
        return Collate()
    batching = choose_batching(config.data.batching, input_device(model.language_model))
    if batching == "packed":
        packing(model.language_model)  # refuses what cannot be packed
    return Collate(batching, 384)


def _batches(
    config: Config, prepared: Prepared, accelerator: Accelerator, collate: Collate, start: int, last: int
) -> Iterator[list[dict[str, Tensor]]]:
    optim = config.optim
    indices = batch_indices(
        start,
        last,
        optim.batch_size,
        optim.accumulation,
        accelerator.process_index,
        accelerator.num_processes,
    )
    on_gpu = accelerator.device.type == "cuda"
    # Kept features cost next to nothing to read: worker processes pay only where they run beside a GPU.
    workers = config.data.num_workers if on_gpu or not config.data.feature_cache else 0
    loader = DataLoader(
        prepared.training,
        batch_sampler=list(indices),
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=_ignore_interrupt,
        pin_memory=on_gpu,
    )
    return iter(loader)


def _ignore_interrupt(worker: int) -> None:
    del worker  # Ctrl-C reaches the whole process group; only the main process shall act on it
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _StopFlag:
    """Set by the first Ctrl-C or SIGTERM, so that no iteration is torn; the second one acts as usual."""

    def __enter__(self) -> _StopFlag:
        self.raised = False
        self.before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {s: signal.signal(s, self._raise) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _raise(self, number: int, frame: Any) -> None:
        self.raised = True
        signal.signal(number, self.before[number])

    def is_set(self, accelerator: Accelerator) -> bool:
        if accelerator.num_processes == 1:
            return self.raised
        flag = torch.tensor(float(self.raised), device=accelerator.device)
        return bool(accelerator.reduce(flag).item())

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def _save(config: Config, prepared: Prepared, optimizer: Any, accelerator: Accelerator, done: int) -> Path:
    folder = Path(config.output_dir) / run_folder.CHECKPOINTS / f"iteration_{done:07d}"
    if accelerator.is_main_process:
        trainable, _ = prepared.model.num_parameters()
        card = {
            "step": config.step,
            "iteration": done,
            "num_trainable": trainable,
            **prepared.identity,
            "lora": lora.settings_of(prepared.model.language_model),
            "known_answer": known_answer.measure(
                prepared.model, prepared.known_queries, config.prompt.template
            ),
            "parent": prepared.parent,
            "data_sha256": prepared.data_sha256,
            "git_revision": checkpoint.git_revision(),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "config": to_dict(config),
        }
        branches = lora.trainable(prepared.model.language_model)
        state = {"optimizer": optimizer.state_dict()}
        checkpoint.save(folder, prepared.model.projection.state_dict(), card, state, branches, prepared.seen)
        checkpoint.prune(Path(config.output_dir), config.log.keep_checkpoints)
    accelerator.wait_for_everyone()
    return folder


def _restore(folder: Path, prepared: Prepared, optimizer: Any, accelerator: Accelerator) -> int:
    """Load the newest checkpoint of a run, if it has one; returns the iteration to go on at.

    Raises:
        RunError: the run was begun on other data or from another parent.
    """
    if not checkpoint.saved(folder):
        return 0
    newest = checkpoint.find(folder)
    tensors, card = checkpoint.load(newest)
    branches = lora.settings_of(prepared.model.language_model)
    now = {
        "data_sha256": prepared.data_sha256,
        "parent": prepared.parent,
        "lora": branches,
        **prepared.identity,
    }
    for key, value in now.items():
        if card.get(key) != value:
            raise RunError(f"{folder}: was begun with another {key}; start anew with --overwrite")
    prepared.model.projection.load_state_dict(tensors)
    tensors = checkpoint.load_lora(newest, card)
    lora.restore(prepared.model.language_model, branches, tensors, str(newest))
    known_answer.check(prepared.model, prepared.known_queries, card, str(newest))
    state = torch.load(newest / checkpoint.STATE, map_location=accelerator.device, weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    return card["iteration"]
