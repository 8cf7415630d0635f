"""Training, ours against the original's way: python -m benchmarks train [key=value ...].

Both train the same projection on the same batches of the same samples, answers of 20 to 160 tokens, with the same
language model in the same precision. The original's way runs the image encoder at every step, computes logits of the
complete padded batch, and uses eager attention (`--attention`). Ours is what `train.py` does with cached features.
Reading images from the disk is counted for neither. Overrides change our side only, to measure what a lever gains.

Research software, not a medical device.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from benchmarks.harness import counts, hardware, options, pairs, reference, shapes, workload
from skingpt4.config.schema import Config
from skingpt4.doctor import memory
from skingpt4.model.network import ImageEncoder, SkinGPT4
from skingpt4.model.precision import num_bytes
from skingpt4.model.prompts import get_template
from skingpt4.records.manifest import read_manifest
from skingpt4.support.errors import reported
from skingpt4.training import compiled, loop
from skingpt4.training.batches import Collate, batches, make_collate
from skingpt4.training.features import cached_images, cached_queries, image_files
from skingpt4.training.optim.optimizer import make_optimizer
from skingpt4.training.samples import SampleEncoder, TrainingSamples, answer_for

QUESTION = "What is wrong with my skin?"
RATE = 1e-5


@dataclass
class Bench:
    """Both sides over the same samples; `steps` batches make a run."""

    config: Config
    model: SkinGPT4  # ours, without the encoder
    encoder: ImageEncoder
    samples: TrainingSamples
    original: reference.Original
    batches: list[reference.Batch]
    accelerator: Accelerator
    steps: int
    compile_seconds: float | None = None  # what our compiled layers took, if they are

    @property
    def collate(self) -> Collate:
        """How our batches are put together."""
        return make_collate(self.config, self.model.language_model)

    def groups(self) -> Iterator[list[dict[str, torch.Tensor]]]:
        """The product's own batches, each as the groups in which it runs."""
        return batches(self.config, self.samples, self.collate, self.accelerator, 0, self.steps)

    def our_run(
        self, own_batches: Sequence[Sequence[dict[str, torch.Tensor]]] | None = None
    ) -> Callable[[], None]:
        """`steps` steps of the product's loop, over these batches or the product's own."""
        optimizer = make_optimizer(self.model, self.config.optim)
        for group in optimizer.param_groups:
            group["lr"] = RATE

        def run() -> None:
            self.model.train()
            norm = self.config.optim.max_grad_norm
            for micro_batches in own_batches or self.groups():
                loop.train_step(self.model, optimizer, micro_batches, self.accelerator, norm)

        return run

    def original_run(self, attention: str) -> Callable[[], None]:
        """The same steps in the original's way."""
        optimizer = reference.make_optimizer(self.original.projection)

        def run() -> None:
            with compiled.as_written(), attending(self.model.language_model, attention):
                for batch in self.batches:
                    reference.training_step(
                        self.original, optimizer, [batch], [QUESTION], RATE, lambda questions: questions[0]
                    )

        return run

    @torch.no_grad()
    @compiled.as_written()
    def losses(self) -> tuple[float, float]:
        """The first batch's loss in nats a token: ours, the original's."""
        device = self.accelerator.device
        parts = [self.model(**{k: v.to(device) for k, v in g.items()}) for g in next(self.groups())]
        ours = float(sum(loss for loss, _ in parts) / sum(count for _, count in parts))
        batch = self.batches[0]
        return ours, float(reference.training_loss(self.original, batch.image, QUESTION, batch.answers))

    @torch.no_grad()
    def encoder_flops(self) -> float:
        """Operations of one image."""
        image = self.batches[0].image[:1]
        vision, qformer = self.encoder.vision_encoder, self.encoder.qformer
        return counts.forward_flops(vision, image) + counts.forward_flops(qformer, vision(image))

    def counted(self) -> tuple[counts.Step, counts.Step]:
        """What each side computes in a run."""
        groups = [group for batch in self.groups() for group in batch]
        supervised = sum(int((g["labels"][:, 1:] >= 0).sum()) for g in groups)
        ours = counts.Step(sum(g["input_ids"].numel() for g in groups), supervised, 0)
        size = self.config.optim.batch_size
        lengths = [
            [len(self.samples[n]["encoded"].input_ids) for n in range(i * size, (i + 1) * size)]
            for i in range(self.steps)
        ]
        tokens = sum(size * max(batch) for batch in lengths)
        return ours, counts.Step(tokens, tokens, self.steps * size)


@contextmanager
def attending(language_model: Any, attention: str) -> Iterator[None]:
    """Another implementation of attention for a while."""
    own = language_model.config._attn_implementation
    language_model.model.set_attn_implementation(attention)
    try:
        yield
    finally:
        language_model.model.set_attn_implementation(own)


@dataclass
class Size:
    """What a run consists of: `steps` steps of `batch` samples; the baseline's attention; our overrides."""

    steps: int
    batch: int
    attention: str
    overrides: list[str]


def configuration(setting: options.Setting, size: Size) -> Config:
    """The shape's configuration for a benchmark, with the command's overrides."""
    config = shapes.configuration(setting.shape, tuple(size.overrides))
    config.prompt.template, config.prompt.questions = "vicuna", [QUESTION]
    config.prompt.concepts_question = None
    config.prompt.use_concepts = config.prompt.use_disease = config.prompt.use_turns = False
    config.data.augment, config.data.num_workers, config.data.feature_cache = False, 0, "cached"
    config.optim.batch_size, config.optim.accumulation = size.batch, 1
    if setting.small and config.language.compile == "auto":
        config.language.compile = "never"
    return config


def make(setting: options.Setting, size: Size, folder: Path) -> Bench:
    """Build the network, draw the samples, compute the features."""
    shape, device = setting.shape, setting.device
    config = configuration(setting, size)
    config.data.feature_cache = None  # the baseline holds the encoder
    needed = memory.training(
        config, shapes.language_shape(shape), setting.dtype_name, memory.encoder_parameters(config)
    )
    config.data.feature_cache = "cached"
    shapes.require_room(shape, needed, device)
    model = shapes.network(shape, config, device, setting.dtype)
    encoder, model.encoder = model.encoder, None
    assert encoder is not None
    template = get_template(config.prompt.template)
    manifest = workload.write_records(folder, model.tokenizer, template, size.steps * size.batch)
    records = read_manifest(manifest)
    store = cached_queries(manifest, records, config, folder / "features", lambda: encoder)
    samples = TrainingSamples(
        records, SampleEncoder.from_config(config, model.tokenizer), cached_images(store), seed=config.seed
    )
    vision = encoder.vision_encoder
    load = image_files(records, config.vision.image_size, vision.mean, vision.std, augment=False)
    original_batches = []
    for step in range(size.steps):
        rows = [samples.row_of(n) for n in range(step * size.batch, (step + 1) * size.batch)]
        image = torch.stack([load(row, None)["image"] for row in rows]).to(device)
        answers = [answer_for(records[row], config.prompt) for row in rows]
        original_batches.append(reference.Batch(image, answers))
    original = reference.Original(
        encoder, copy.deepcopy(model.projection), model.language_model, model.tokenizer,
        config.data.max_text_tokens,
    )  # fmt: skip
    accelerator = Accelerator(mixed_precision="no", cpu=device.type == "cpu")
    bench = Bench(config, model, encoder, samples, original, original_batches, accelerator, size.steps)
    if compiled.should_compile(config.language.compile, model.language_model, compiled.PAYS_AFTER):
        bench.compile_seconds = compile_in_time(model.language_model)
    return bench


def compile_in_time(language_model: Any) -> float | None:
    """Compile the layers, as a long run does; returns the seconds, or None if torch cannot compile them."""
    began = time.perf_counter()
    problem = compiled.compile_layers(language_model)
    took = time.perf_counter() - began
    print(f"layers as written: {problem}" if problem else f"layers compiled in {took:.0f} s", flush=True)
    return None if problem else took


def measure(setting: options.Setting, size: Size, bench: Bench) -> dict[str, Any]:
    """The pairs, the counts beside them, the roofline."""
    shape = shapes.language_shape(setting.shape)
    top = setting.ceiling()
    losses = bench.losses()
    encoder_flops = bench.encoder_flops()
    comparison = pairs.compare(
        bench.our_run(),
        bench.original_run(size.attention),
        setting.pairs,
        device=setting.device,
        what="training",
    )
    samples = size.steps * size.batch
    result: dict[str, Any] = {"what": f"training: {size.steps} steps of batch {size.batch} a run"}
    result |= {"overrides": size.overrides, "counted": counts.WHAT, "ceiling": top.to_dict()}
    result["settings"] = {
        "compile_seconds": bench.compile_seconds,
        "batching": bench.config.data.batching,
        "attention of ours": bench.model.language_model.config._attn_implementation,
        "attention of the yardstick": size.attention,
        "answer_tokens": [workload.SHORTEST, workload.LONGEST],
    }
    names = ("ours", pairs.BASELINE)
    result["first_loss"] = dict(zip(names, losses, strict=True))
    totals = []
    sides = (comparison.ours, comparison.baseline)
    for key, step, side in zip(names, bench.counted(), sides, strict=True):
        parts = step.flops(shape, encoder_flops)
        total = sum(parts.values())
        totals.append(total)
        line = hardware.roofline(top, side.median(), total)
        rate = samples / side.median()
        result[f"count_{key}"] = step.to_dict() | {
            "flops": total,
            "shares": {part: value / total for part, value in parts.items()},
            "samples_per_second": rate,
            "roofline": line,
        }
        shares = ", ".join(f"{part} {value / total:.0%}" for part, value in parts.items())
        print(
            f"{key}: {rate:.2f} samples/s; {total / 1e12:.2f} T operations a run ({shares}); {line['line']}"
        )
    result["count_ratio"] = totals[1] / totals[0]
    weights = {"language model and projection": sum(map(num_bytes, bench.model.parameters()))}
    weights["image encoder, the yardstick alone"] = sum(map(num_bytes, bench.encoder.parameters()))
    result["weights_bytes"] = weights
    print(f"first loss: ours {losses[0]:.5f}, the original's way {losses[1]:.5f}")
    print(f"count: {result['count_ratio']:.2f}x fewer operations; measured {comparison.line()}")
    print(comparison.peak_line())
    return result | {"measured": comparison.to_dict()}


def command(
    name: str,
    description: str | None,
    measure: Callable[[options.Setting, Size, Bench], dict[str, Any]],
    argv: Sequence[str] | None,
    pairs: int,
    steps: int,
) -> int:
    """Run a command line that measures something on a `Bench`; returns the exit status.

    Args:
        name: of the command.
        description: for ``--help``.
        measure: what the result's JSON holds.
        argv: the arguments.
        pairs: how often each way runs by default.
        steps: of a run by default.
    """
    parser = options.parser(name, description, pairs=pairs)
    parser.add_argument("--batch", type=int, default=8, help="samples a step (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=steps, help="steps a run (default: %(default)s)")
    parser.add_argument("--attention", default="eager", help="of the baseline (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to our configuration")
    with reported() as status, tempfile.TemporaryDirectory() as folder:
        setting, args = options.settle(name, parser, argv)
        steps, batch = (1, 2) if setting.small else (args.steps, args.batch)
        size = Size(steps, batch, args.attention, args.overrides)
        setting.save(measure(setting, size, make(setting, size, Path(folder))))
    return status.code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    return command("train", __doc__, measure, argv, pairs=4, steps=2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
