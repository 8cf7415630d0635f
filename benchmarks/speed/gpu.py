"""Everything for one GPU in one call of under ten minutes: python -m benchmarks gpu [--minutes 9].

The shapes of Vicuna-7B and 13B with random weights in bf16, nothing downloaded. For each shape it runs stages of the
other benchmarks: training steps on cached features as in `scaling` (operations per second against a matrix product
measured in the same run, samples per second, hours of the paper's two steps, peak memory at batch 2, 16 and 64), and
decoding of 1, 8 and 32 conversations as in `decode` (bytes per second against a copy); at the end, training with
layers compiled by torch. The JSON is written after every stage, and it says of a stage that failed or did not fit
into the time.

Without a GPU, `--small` runs the same path on the CPU with networks of kilobytes; its figures mean nothing.
Research software, not a medical device.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks.harness import counts, hardware, options, shapes, workload
from benchmarks.speed import decode, scaling
from skingpt4.doctor import memory
from skingpt4.support.errors import reported
from skingpt4.training import compiled

MODELS = ("vicuna7b", "vicuna13b")
BATCHES, ROWS, TOKENS = (2, 16, 64), (1, 8, 32), 64
PAPER_ITERATIONS, PAPER_BATCH, PAPER_STEPS = 20 * 5000, 2, 2
KILOBYTES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 1100, "max_position_embeddings": 1024, "tie_word_embeddings": False,
}  # fmt: skip
GOALS = {"training share of the matrix product": 0.55, "decoding share of the copy": 0.8, "hours at 7B": 1.0}


class Stages:
    """Runs stages while there is time, records their results and failures, and writes the JSON after each."""

    def __init__(self, setting: options.Setting, minutes: float) -> None:
        self.setting, self.ends = setting, time.monotonic() + 60 * minutes
        self.result: dict[str, Any] = {"goals": GOALS, "stages": {}, "minutes": minutes}

    def run(self, name: str, work: Callable[[], Any], seconds: float) -> None:
        """One stage, if `seconds` (a guess of what it takes) are left; its result is stored under its name."""
        left = self.ends - time.monotonic()
        began = time.perf_counter()
        if left < seconds:
            stage: Any = {"left_out": f"{left:.0f} s were left and it takes about {seconds:.0f}"}
        else:
            try:
                stage = work()
            except Exception as error:  # whatever it is, the other stages still count
                stage = {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}"}
                if self.setting.small:
                    raise
        took = time.perf_counter() - began
        self.result["stages"][name] = {"stage_seconds": took, **stage}
        line = stage.get("line") or stage.get("failed") or stage.get("left_out")
        print(f"{name}: {line} ({took:.0f} s)", flush=True)
        self.setting.save(self.result)
        release()


def release() -> None:
    """Return freed memory, so that it does not hide a part of the next stage's peak."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class ModelStages:
    """The stages of one model."""

    def __init__(self, setting: options.Setting, top: hardware.Ceiling) -> None:
        language = shapes.language_shape(setting.shape)
        weights = {"language model": memory.weight_bytes(language, setting.dtype_name)}
        shapes.require_room(setting.shape, weights, setting.device)
        self.setting, self.top, self.language = setting, top, language
        self.steps = scaling.Steps(setting)

    def built(self) -> dict[str, Any]:
        """The size of the network."""
        weights = sum(p.numel() * p.element_size() for p in self.steps.model.parameters())
        return {"weights_bytes": weights, "line": f"{weights / 2**30:.2f} GiB of weights"}

    def train(self, batch: int) -> dict[str, Any]:
        """Training steps at one batch size."""
        lengths = workload.answer_lengths(max(2, batch))[:batch]
        figures = self.steps.measure(lengths, 2 if self.setting.small else 10)
        seconds = statistics.median(figures["each"])
        flops = sum(counts.Step(**figures["counted"]).flops(self.language, 0.0).values())
        line = hardware.roofline(self.top, seconds, flops)
        hours = PAPER_ITERATIONS * PAPER_STEPS * seconds * (PAPER_BATCH / batch) / 3600
        peak_gib = (figures["peak_bytes_above_weights"] or 0) / 2**30
        return {
            **figures, "counts": counts.WHAT, "median_seconds_a_step": seconds, "roofline": line,
            "hours_of_both_steps_for_as_many_samples": hours,
            "line": f"batch {batch}: {batch / seconds:.1f} samples/s, {line['line']}, {peak_gib:.2f} GiB above the "
            f"weights, {hours:.2f} h for both steps' samples",
        }  # fmt: skip

    def train_compiled(self, batch: int) -> dict[str, Any]:
        """`train` with compiled layers; on a CPU torch traces them only, which needs no compiler.

        Raises:
            ShapeError: torch cannot compile them here.
        """
        began = time.perf_counter()
        backend = "inductor" if self.setting.device.type == "cuda" else "aot_eager"
        problem = compiled.compile_layers(self.steps.model.language_model, backend)
        if problem:
            raise shapes.ShapeError(problem)
        return {"compile_seconds": time.perf_counter() - began} | self.train(batch)

    def decode(self, rows: int) -> dict[str, Any]:
        """Greedy decoding of `rows` conversations at once by the product's decoder."""
        model, config = self.steps.model.eval(), self.steps.config
        tokens = 4 if self.setting.small else TOKENS
        queries = decode.random_queries(config, self.setting.device)
        sides = decode.Sides(model, queries, config.prompt.template, rows, tokens, max_guessed=0)
        for _ in range(2):  # the first is the warm-up
            sides.ours()
        seconds = sides.step_seconds[-1]
        length = len(sides.prompts[0].input_ids) + tokens // 2
        read = counts.decode_bytes(model.language_model)
        read += memory.kv_cache_bytes(self.language, rows, length, self.setting.dtype_name)
        line = hardware.roofline(self.top, seconds, read_bytes=read)
        model.train()
        return {
            "rows": rows, "seconds_a_step": seconds, "tokens_per_second": rows / seconds,
            "bytes_read_a_step": read, "roofline": line, "first_tokens": sides.answers["ours"][0][:8],
            "line": f"{rows} rows: {rows / seconds:.1f} tokens/s, {line['line']}",
        }  # fmt: skip


def measure(setting: options.Setting, models: Sequence[str], stages: Stages) -> None:
    """All stages, the most important first in case time runs out."""
    small, top = setting.small, setting.ceiling()
    stages.result["ceiling"] = top.to_dict()
    stages.result["peak_bytes"] = (
        "of torch's allocator on a GPU, of the process on a CPU; above what was held before"
    )
    built: list[ModelStages] = []

    def build(name: str) -> bool:
        shape = shapes.SHAPES[name]
        if small:
            shape = replace(shape, language=("llama", KILOBYTES))

        def make() -> dict[str, Any]:
            built.append(ModelStages(replace(setting, shape=shape), top))
            return built[0].built()

        built.clear()
        release()
        stages.run(f"{name} build", make, 5 if small else 20)
        return bool(built)

    for name in models:
        if not build(name):
            continue
        for batch in (2, 4) if small else BATCHES:
            stages.run(f"{name} train {batch}", lambda b=batch: built[0].train(b), 1 if small else 15)  # type: ignore[misc]
        for rows in (1, 2) if small else ROWS:
            stages.run(f"{name} decode {rows}", lambda r=rows: built[0].decode(r), 1 if small else 15)  # type: ignore[misc]
    for name in models:  # compiling comes when all the rest is written
        if build(name):
            batch = 2 if small else 16
            stages.run(
                f"{name} train {batch} compiled",
                lambda b=batch: built[0].train_compiled(b),  # type: ignore[misc]
                1 if small else 120,
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = options.parser("gpu", __doc__)
    parser.add_argument("--minutes", type=float, default=9.0, help="after which no stage begins (default: 9)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="in this order")
    with reported() as status:
        setting, args = options.settle("gpu", parser, argv)
        if setting.device.type != "cuda" and not setting.small:
            raise shapes.ShapeError(
                "there is no GPU here; --small tries the complete path on the CPU, its figures mean nothing"
            )
        if setting.device.type == "cuda":
            setting.dtype = torch.bfloat16
        stages = Stages(setting, args.minutes)
        measure(setting, args.models, stages)
        failed = [name for name, stage in stages.result["stages"].items() if "failed" in stage]
        status.code = int(bool(failed))
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
