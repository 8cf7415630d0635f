"""Fine-tuning of the projection (and LoRA, if configured): one step of the paper's recipe from a configuration."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from skingpt4.checkpoints import checkpoint
from skingpt4.config.compat import BEHAVIOURS, OURS, Behaviour
from skingpt4.config.load import to_yaml
from skingpt4.config.schema import Config
from skingpt4.model.network import SkinGPT4
from skingpt4.support.errors import UserError
from skingpt4.training import compiled
from skingpt4.training.batches import Collate, batches, make_collate, num_supervised, own_batches
from skingpt4.training.distributed.launchers import make_accelerator
from skingpt4.training.distributed.sharding import asked, in_step
from skingpt4.training.distributed.signals import Stopped, StopSignal
from skingpt4.training.distributed.team import RunError, Team
from skingpt4.training.distributed.watch import watched
from skingpt4.training.optim.optimizer import make_optimizer
from skingpt4.training.optim.schedule import learning_rate
from skingpt4.training.preferences.pairs import PreferenceSamples
from skingpt4.training.prepare import Prepared, describe_parts, prepare, require_paths
from skingpt4.training.resuming import run_folder
from skingpt4.training.resuming.resume import begin, save_after_failure, save_checkpoint
from skingpt4.training.resuming.run_folder import Failed
from skingpt4.training.samples import HeldOutSamples

logger = logging.getLogger(__name__)

MAX_SKIPPED = 20  # consecutive iterations without a finite gradient before a run gives up


def run(config: Config, resume: bool = False, overwrite: bool = False, is_last: bool = True) -> Path:
    """Train one step as configured; returns the last checkpoint's folder.

    Args:
        config: of the step.
        resume: continue the run in `output_dir`, if there is one.
        overwrite: delete it first.
        is_last: whether several processes part afterwards; those of a recipe go on with its next step.

    Raises:
        RunDirError: `output_dir` holds another run, or one that is in progress.
        Stopped: interrupted by one of `processes.STOPPING`, after saving.
        Failed: a file cannot be read or written; what was done is saved if that is possible.
        RunError: the loss is not finite, a batch has nothing to learn from, or another process has ended.
    """
    require_paths(config)
    with ExitStack() as stack:
        sharding = stack.enter_context(asked(config))
        accelerator = make_accelerator(config)
        if is_last:
            stack.callback(accelerator.end_training)
        team, folder = Team.of(accelerator), Path(config.output_dir)
        how = (to_yaml(config), resume, overwrite, team.world)
        stack.enter_context(watched(team))
        team.by_first(lambda: run_folder.check(folder, *how))
        team.by_first(lambda: stack.enter_context(run_folder.locked(folder)))
        prepared = prepare(config, accelerator.device, team, sharding)
        optimizer = accelerator.prepare_optimizer(make_optimizer(prepared.model, config.optim))
        start = begin(config, prepared, optimizer, team, resume and not overwrite)
        # The folder changes, and an old run is deleted, only when nothing can refuse this one.
        team.by_first(lambda: run_folder.claim(folder, *how))
        return _train(Trainer(config, prepared, optimizer, accelerator, team, start))


def _train(trainer: Trainer) -> Path:
    """The iterations that are left; returns the last checkpoint's folder."""
    config = trainer.config
    if trainer.iteration >= trainer.num_iterations:
        trainer.print(f"{config.output_dir}: complete, {trainer.num_iterations} iterations; nothing to do")
        return checkpoint.find(config.output_dir)
    with trainer.started():
        for micro_batches in trainer.batches():
            trainer.set_learning_rate()
            trainer.seed_dropout()
            result = train_step(
                trainer.model, trainer.optimizer, micro_batches, trainer.accelerator,
                config.optim.max_grad_norm, trainer.behaviour,
            )  # fmt: skip
            trainer.count(result)
            trainer.log(result)
            trainer.validate()
            trainer.save()
    return trainer.checkpoint_path


@dataclass
class StepResult:
    """What one optimiser step did."""

    loss: float  # nats a token
    num_tokens: float  # supervised; the sum of their weights with optim.disease_weight
    gradient_norm: float  # before clipping; if it is not finite, the step was skipped


def train_step(
    model: SkinGPT4,
    optimizer: Any,
    micro_batches: Sequence[dict[str, Tensor]],
    accelerator: Accelerator,
    max_norm: float,
    behaviour: Behaviour = OURS,
) -> StepResult:
    """One optimiser step on the mean loss over all supervised tokens of all micro-batches and processes.

    A step whose gradient is not finite is skipped. The original's behaviour takes each batch's own mean, adds these
    up over micro-batches and does not clip.

    Raises:
        RunError: no token is supervised, or the loss is not finite.
    """
    count = sum(map(num_supervised, micro_batches))
    num_tokens = accelerator.reduce(torch.tensor(float(count), device=accelerator.device)).item()
    if not num_tokens:
        raise RunError("a batch has no supervised token; raise data.max_text_tokens or check the answers")
    loss_sum = torch.zeros((), device=accelerator.device)
    for batch, weight in in_step(model, micro_batches, lambda: micro_batches[-1], accelerator):
        loss, batch_tokens = model(**_on(accelerator.device, batch))
        divisor = float(batch_tokens) * accelerator.num_processes if behaviour.mean_of_means else num_tokens
        (
            loss * weight / divisor
        ).backward()  # accelerator.backward divides by the launcher's accumulation too
        loss_sum += loss.detach() * weight
    parameters = [p for p in model.parameters() if p.requires_grad]
    for p in parameters if accelerator.num_processes > 1 else ():  # the trained part is small
        p.grad = accelerator.reduce(p.grad)
    norm = float(accelerator.clip_grad_norm_(parameters, max_norm if behaviour.clips else math.inf))
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad()
    mean = accelerator.reduce(loss_sum).item() / num_tokens
    if not math.isfinite(mean):
        raise RunError(
            f"the loss became {mean}; use bfloat16 or float32 (language.dtype) or a smaller optim.init_lr"
        )
    return StepResult(mean, num_tokens, norm)


def _on(device: torch.device, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch on a device; from pinned memory the copy overlaps with what the GPU still computes."""
    return {key: value.to(device, non_blocking=True) for key, value in batch.items()}


@torch.no_grad()
def held_out_loss(
    model: SkinGPT4,
    samples: HeldOutSamples | PreferenceSamples,
    batch_size: int,
    accelerator: Accelerator,
    collate: Collate,
) -> float:
    """Mean loss (nats a token) over held-out samples, which the processes share."""
    model.eval()
    sums = torch.zeros(2, device=accelerator.device)
    for groups in own_batches(samples, batch_size, accelerator, collate):
        for batch, weight in in_step(model, groups, lambda: collate([samples[0]])[0], accelerator):
            loss, count = model(**_on(accelerator.device, batch))
            sums += torch.stack([loss, count.to(loss)]) * weight
    sums = accelerator.reduce(sums)
    model.train()
    return float(sums[0] / sums[1])


class Trainer:
    """A run in progress; `iteration` counts the iterations that are done."""

    def __init__(
        self,
        config: Config,
        prepared: Prepared,
        optimizer: Any,
        accelerator: Accelerator,
        team: Team,
        iteration: int,
    ) -> None:
        self.config, self.prepared, self.model = config, prepared, prepared.model
        self.optimizer, self.accelerator, self.team, self.iteration = optimizer, accelerator, team, iteration
        self.num_iterations = config.optim.max_epoch * config.optim.iters_per_epoch
        self.behaviour = BEHAVIOURS[config.compat]
        self.checkpoint_path, self.saved_iteration = Path(config.output_dir), iteration
        self.print = accelerator.print
        self.smoothed_loss = math.nan
        self.num_skipped = 0  # consecutive iterations

    @contextmanager
    def started(self) -> Iterator[None]:
        """Everything that is open while the iterations run: metrics, progress bar, signal handlers."""
        self._announce()
        main = self.accelerator.is_main_process
        folder, tensorboard = Path(self.config.output_dir), self.config.log.tensorboard
        self.metrics = run_folder.Metrics(folder, self.iteration, tensorboard) if main else None
        try:
            self.collate = make_collate(self.config, self.model.language_model)
            self.model.train()
            self._compile()
            self.started_at = time.perf_counter()
            self.bar = tqdm(
                total=self.num_iterations, initial=self.iteration, desc=self.config.step, unit="it",
                disable=not main,
            )  # fmt: skip
            with self.bar, StopSignal() as self.stop_signal:
                yield
        finally:
            if self.metrics:
                self.metrics.close()

    def batches(self) -> Iterator[list[dict[str, Tensor]]]:
        """The micro-batches of each iteration that is left."""
        samples, stop = self.prepared.training, self.num_iterations
        with self._saved_on_failure():
            yield from self.team.together(
                batches(self.config, samples, self.collate, self.accelerator, self.iteration, stop)
            )

    def set_learning_rate(self) -> None:
        """Give the optimiser the rate of this iteration."""
        self.rate = learning_rate(self.iteration, self.config.optim, self.behaviour)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate

    def seed_dropout(self) -> None:
        """Make what LoRA drops a function of (seed, iteration, process) too, so that a resumed run drops the same."""
        if self.config.lora.dropout:
            key = [self.config.seed, self.iteration, self.accelerator.process_index]
            torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))

    def count(self, result: StepResult) -> None:
        """Count the iteration; give up after MAX_SKIPPED skipped steps."""
        self.iteration += 1
        self.num_skipped = 0 if math.isfinite(result.gradient_norm) else self.num_skipped + 1
        if self.num_skipped == MAX_SKIPPED:
            raise RunError(
                f"the gradient was not finite in {self.num_skipped} iterations in a row, the last is "
                f"{self.iteration}; use bfloat16 or float32 (language.dtype) or a smaller optim.init_lr"
            )

    def log(self, result: StepResult) -> None:
        """Move the progress bar; every `log.every` iterations write a line of metrics."""
        first = math.isnan(self.smoothed_loss)
        self.smoothed_loss = result.loss if first else 0.9 * self.smoothed_loss + 0.1 * result.loss
        self.bar.update()
        self.bar.set_postfix(loss=f"{self.smoothed_loss:.3f}", lr=f"{self.rate:.1e}", refresh=False)
        at_an_end = self.iteration in (1, self.num_iterations)
        if self.metrics and (self.iteration % self.config.log.every == 0 or at_an_end or self.num_skipped):
            self.metrics.write(
                "train",
                self.iteration,
                **asdict(result),
                **({"skipped": True} if self.num_skipped else {}),
                learning_rate=self.rate,
                seconds=time.perf_counter() - self.started_at,
                epoch=(self.iteration - 1) // self.config.optim.iters_per_epoch,
            )

    def validate(self) -> None:
        """Every `log.validate_every` iterations, measure the loss on held-out records."""
        held_out = self.prepared.held_out
        if held_out is None or not self._is_due(self.config.log.validate_every):
            return
        batch_size = self.config.optim.batch_size
        try:
            with compiled.as_written():
                loss = held_out_loss(self.model, held_out, batch_size, self.accelerator, self.collate)
        except UserError:  # a checkpoint now would leave its held-out loss out of the metrics for good
            logger.warning("note: iteration %d is not saved, its held-out loss is missing", self.iteration)
            raise
        if not self.metrics:
            return
        self.metrics.write("validation", self.iteration, loss=loss)
        with suppress(OSError):  # the terminal is gone after SIGHUP
            self.bar.write(f"iteration {self.iteration}: held-out loss {loss:.3f} ({len(held_out)} records)")

    def save(self) -> None:
        """Save every `log.checkpoint_every` iterations, and when the run was interrupted.

        Raises:
            Stopped: it was, before its last iteration.
        """
        stopping = self.team.any(self.stop_signal.number is not None)
        if stopping or self._is_due(self.config.log.checkpoint_every):
            with self._saved_on_failure():
                self._save()
        if stopping and self.iteration < self.num_iterations:
            raise Stopped(
                f"stopped after iteration {self.iteration} of {self.num_iterations}; saved in "
                f"{self.checkpoint_path}; continue with --resume",
                self.stop_signal.number,
            )

    def _save(self) -> Path:
        self.team.by_first(self._sync_metrics)
        with compiled.as_written():
            self.checkpoint_path = save_checkpoint(
                self.config, self.prepared, self.optimizer, self.team, self.iteration
            )
        self.saved_iteration = self.iteration
        return self.checkpoint_path

    def _sync_metrics(self) -> None:
        if self.metrics:
            self.metrics.sync()

    @contextmanager
    def _saved_on_failure(self) -> Iterator[None]:
        """Around what happens between two iterations, when the state is complete: if it fails, save (again)."""
        try:
            yield
        except (UserError, OSError) as error:
            if self.iteration > self.saved_iteration:
                save_after_failure(self._save, self.iteration, self.team)
            raise Failed(f"{error}; once this is fixed, continue with --resume") from error

    def _is_due(self, every: int) -> bool:
        last = self.iteration == self.num_iterations
        return last or self.iteration % (every or self.config.optim.iters_per_epoch) == 0

    def _announce(self) -> None:
        for note in self.prepared.notes:
            self.print(f"note: {note}")
        trainable, total = self.model.num_parameters()
        encoder = self.model.encoder
        self.print(
            f"{self.config.step}: {len(self.prepared.training)} records, {trainable / 1e6:.2f} M of "
            f"{total / 1e6:.0f} M parameters trained, {self.accelerator.num_processes} x "
            f"{self.accelerator.device}\n{describe_parts(self.prepared.parts)}\n"
            f"language model: {self.model.language_model.describe_place()}; "
            f"encoder: {encoder.describe_place() if encoder else 'not needed, features are cached'}"
        )

    def _compile(self) -> None:
        language_model = self.model.language_model
        if compiled.should_compile(self.config.language.compile, language_model, self.num_iterations):
            self.print("compiling the layers, up to a minute (language.compile) ...")
            problem = compiled.compile_layers(language_model)
            self.print(f"note: language.compile: {problem}; continuing without" if problem else "compiled")
