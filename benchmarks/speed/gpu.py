"""Everything for one GPU in one call of under ten minutes: python -m benchmarks gpu [--minutes 9].

Vicuna-7B and 13B shapes with random weights in bf16, nothing downloaded. For each: training steps of the product on
kept features (operations a second against a matrix product measured in the same run, samples a second, hours of
the paper's two steps, peak memory at batch 2, 16 and 64), and decoding of 1 and 32 conversations (bytes a second
against a copy); at the end both compiled by torch. The JSON is written after every stage, and a stage that fails or
no longer fits into the time says so in it.

Without a GPU the same path runs on the CPU with networks of kilobytes (`--small`); its figures say nothing.
Research software, not a medical device.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from skingpt4.generation.graphs import Step
from torch import Tensor
from transformers import StaticCache

from benchmarks.harness import counts, hardware, options, shapes, workload
from skingpt4.config.schema import LanguageConfig, OptimConfig
from skingpt4.doctor import memory
from skingpt4.generation.cache import Rows
from skingpt4.model.language import LanguageModel
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import IGNORED, IMAGE_TOKEN
from skingpt4.support.errors import reported
from skingpt4.training import compiled, loop

MODELS = {"vicuna7b": "lmsys/vicuna-7b-v1.5", "vicuna13b": "lmsys/vicuna-13b-v1.5"}
QUERIES, QUERY_WIDTH = 32, 768  # BLIP-2's Q-Former
PROMPT = 31  # bos and the words around picture and question, by Llama's own vocabulary
BATCHES = (2, 16, 64)
PAPER_ITERATIONS, PAPER_BATCH, PAPER_STEPS = 20 * 5000, 2, 2
SMALL: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 1100, "max_position_embeddings": 1024, "tie_word_embeddings": False,
}  # fmt: skip
GOALS = {"training share of the matrix product": 0.55, "decoding share of the copy": 0.8, "hours at 7B": 1.0}


class Stages:
    """Runs stages while there is time, keeps what they found and what went wrong, and writes after each."""

    def __init__(self, setting: options.Setting, minutes: float) -> None:
        """Begin the clock."""
        self.setting, self.ends = setting, time.monotonic() + 60 * minutes
        self.result: dict[str, Any] = {"goals": GOALS, "stages": {}, "minutes": minutes}

    def run(self, name: str, work: Callable[[], Any], seconds: float) -> None:
        """One stage, if `seconds` (a guess of what it takes) are left; its result stands under its name."""
        left = self.ends - time.monotonic()
        began = time.perf_counter()
        if left < seconds:
            found: Any = {"left_out": f"{left:.0f} s were left and it takes about {seconds:.0f}"}
        else:
            try:
                found = work()
            except Exception as error:  # whatever it is, the other stages still count
                found = {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}"}
                if self.setting.args.small:
                    raise
        took = time.perf_counter() - began
        self.result["stages"][name] = {"stage_seconds": took, **found}
        print(
            f"{name}: {found.get('line') or found.get('failed') or found.get('left_out')} ({took:.0f} s)",
            flush=True,
        )
        self.setting.save(self.result)
        release()


def release() -> None:
    """Hand freed memory back, so that the next stage's peak is its own."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def batch_of(size: int, vocabulary: int, device: torch.device, seed: int = 0) -> dict[str, Tensor]:
    """`size` samples: prompt, 32 queries, answers of 20 to 160 tokens, right padded, as the product collates them."""
    generator = torch.Generator().manual_seed(seed)
    lengths = workload.answer_lengths(max(2, size), seed)[:size]
    start = PROMPT + QUERIES
    width = start + max(lengths)
    ids = torch.randint(5, vocabulary, (size, width), generator=generator)
    ids[:, 7 : 7 + QUERIES] = IMAGE_TOKEN
    labels, mask = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        labels[row, start : start + length] = ids[row, start : start + length]
        mask[row, : start + length] = 1
    queries = torch.randn(size, QUERIES, QUERY_WIDTH, generator=generator)
    rows = {"input_ids": ids, "labels": labels, "attention_mask": mask, "queries": queries}
    return {key: value.to(device) for key, value in rows.items()}


def train(
    model: SkinGPT4, shape: memory.LanguageShape, top: hardware.Ceiling, size: int, seconds: float
) -> dict[str, Any]:
    """Steps of the product at one batch size, for about `seconds`."""
    device = model.projection.weight.device
    accelerator = Accelerator(mixed_precision="no", cpu=device.type == "cpu")
    optimizer = loop.make_optimizer(model, OptimConfig())
    batches = [batch_of(size, shape.vocabulary, device, seed) for seed in range(4)]

    def step(number: int) -> None:
        loop.train_step(model, optimizer, [batches[number % 4]], accelerator, 1.0)

    model.train()
    for number in range(2):
        step(number)
    took: list[float] = []
    with hardware.PeakMemory(device) as peak:
        while sum(took) < seconds or len(took) < 4:
            hardware.synchronize(device)
            began = time.perf_counter()
            step(len(took))
            hardware.synchronize(device)
            took.append(time.perf_counter() - began)
    cycle = took[: len(took) // 4 * 4]  # whole rounds of the four batches
    second = sum(cycle) / len(cycle)
    padded = sum(b["input_ids"].numel() for b in batches) / 4
    real = sum(int(b["attention_mask"].sum()) for b in batches) / 4
    supervised = sum(int((b["labels"] >= 0).sum()) for b in batches) / 4
    parts = counts.Step(int(padded), int(supervised), 0).flops(shape, 0.0)
    useful = counts.Step(int(real), int(supervised), 0).flops(shape, 0.0)
    line = hardware.roofline(top, second, sum(parts.values()))
    hours = PAPER_ITERATIONS * PAPER_STEPS * second * (PAPER_BATCH / size) / 3600
    peak_gib = (peak.peak_bytes or 0) / 2**30
    text = (
        f"batch {size}: {size / second:.1f} samples/s, {line['line']}, {peak_gib:.2f} GiB above the weights"
    )
    return {
        "batch": size, "steps": len(took), "seconds_a_step": second, "samples_per_second": size / second,
        "tokens": {"with padding": padded, "real": real, "supervised": supervised}, "counted": counts.WHAT,
        "roofline": line, "share_for_real_tokens_alone": sum(useful.values()) / second / 1e12 / top.matrix_tflops,
        "peak_bytes_above_weights": peak.peak_bytes,
        "hours_of_both_steps_for_as_many_samples": hours, "line": f"{text}, {hours:.2f} h for both steps' samples",
    }  # fmt: skip


def train_compiled(
    model: SkinGPT4, shape: memory.LanguageShape, top: hardware.Ceiling, size: int, seconds: float
) -> dict[str, Any]:
    """`train` with layers compiled before (`language.compile`); on a CPU traced alone, which takes no compiler.

    Raises:
        ShapeError: torch cannot compile them here.
    """
    began = time.perf_counter()
    on_gpu = model.projection.weight.device.type == "cuda"
    problem = compiled.compile_layers(model.language_model, "inductor" if on_gpu else "aot_eager")
    if problem:
        raise shapes.ShapeError(problem)
    return {"compile_seconds": time.perf_counter() - began} | train(model, shape, top, size, seconds)


class Decoding:
    """One token a step for some rows, on a cache of fixed size: plainly, or compiled and as a CUDA graph."""

    def __init__(self, model: Any, rows: int, prompt: int, tokens: int) -> None:
        """Read a random prompt; every way goes on from it."""
        self.model, self.rows, self.prompt, self.tokens = model, rows, prompt, tokens
        self.device = model.device
        self.cache = StaticCache(config=model.config, max_cache_len=prompt + tokens + 8)
        self.ids = torch.zeros(rows, 1, dtype=torch.long, device=self.device)
        self.position = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        self.forward: Callable[..., Any] = model.forward

    def random_ids(self) -> Tensor:
        """(rows, prompt) the same for every way."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(5, self.model.config.vocab_size, (self.rows, self.prompt), generator=generator)
        return ids.to(self.device)

    @torch.no_grad()
    def read(self) -> None:
        """The prompt, into an empty cache."""
        self.cache.reset()
        out = self.model(
            input_ids=self.random_ids(), past_key_values=self.cache, use_cache=True, logits_to_keep=1
        )
        self.ids.copy_(out.logits[:, -1:].argmax(-1))
        self.position.fill_(self.prompt)

    @torch.no_grad()
    def step(self) -> None:
        """One token for every row; reads and writes tensors in place, so that a graph can repeat it."""
        out = self.forward(
            input_ids=self.ids, position_ids=self.position.expand(self.rows, 1), past_key_values=self.cache,
            use_cache=True,
        )  # fmt: skip
        self.ids.copy_(out.logits[:, -1:].argmax(-1))
        self.position.add_(1)

    @contextmanager
    def graph(self) -> Iterator[Callable[[], None]]:
        """The step captured once and replayed."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            self.step()
        yield captured.replay

    def measure(self, step: Callable[[], None], top: hardware.Ceiling, read_bytes: int) -> dict[str, Any]:
        """Tokens after the prompt, and what they read."""
        self.read()
        hardware.synchronize(self.device)
        began = time.perf_counter()
        written = [self._keep(step) for _ in range(self.tokens)]
        hardware.synchronize(self.device)
        second = (time.perf_counter() - began) / self.tokens
        line = hardware.roofline(top, second, read_bytes=read_bytes)
        ids = torch.cat(written, 1)[0].tolist()
        return {
            "rows": self.rows, "seconds_a_step": second, "tokens_per_second": self.rows / second, "roofline": line,
            "first_tokens": ids[:8],
            "line": f"{self.rows} rows: {self.rows / second:.1f} tokens/s, {line['line']}",
        }  # fmt: skip

    def _keep(self, step: Callable[[], None]) -> Tensor:
        step()
        return self.ids.clone()


class Repeated(Decoding):
    """The same by the product's cache and its recorded step, with the product's way back to Python at each token."""

    @torch.no_grad()
    def read(self) -> None:
        """The prompts, each into a cache of its own, then joined."""
        held = Rows(self.prompt + self.tokens + 8)
        for number, ids in enumerate(self.random_ids()):
            cache = held if number == 0 else Rows(self.prompt)
            out = self.model(input_ids=ids[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.advance(self.prompt)
            self.ids[number] = out.logits[0, -1:].argmax(-1)
            if number:
                held.join(cache)
        held.reserve(self.tokens + 8)
        self.recorded = Step(self.model, held)
        self.recorded.prepare(self.ids[:, 0].tolist())  # the recording is not timed

    @torch.no_grad()
    def step(self) -> None:
        """One token for every row."""
        self.ids.copy_(self.recorded(self.ids[:, 0].tolist())[:, -1:].argmax(-1))


def decode(model: Any, top: hardware.Ceiling, rows: int, way: str, small: bool) -> dict[str, Any]:
    """Decoding one way: plain, graph (the product's), or compiled (and, on a GPU, captured as a graph too)."""
    prompt, tokens = (8, 4) if small else (PROMPT + QUERIES, 64)
    bench = (Repeated if way == "graph" else Decoding)(model, rows, prompt, tokens)
    read_bytes = counts.decode_bytes(model) + memory.kv_cache_bytes(
        memory.language_shape(model.config), rows, prompt + tokens // 2, "bfloat16"
    )
    if way == "compiled":
        torch._dynamo.reset()
        bench.forward = torch.compile(model.forward, backend="eager" if small else "inductor", fullgraph=True)
    bench.read()
    on_gpu = bench.device.type == "cuda"
    if way != "compiled" or not on_gpu:
        bench.step()
        found = bench.measure(bench.step, top, read_bytes)
    else:
        with bench.graph() as replay:
            found = bench.measure(replay, top, read_bytes)
    return {"way": way, "bytes_read_a_step": read_bytes, **found}


def build(name: str, device: torch.device, dtype: torch.dtype, small: bool) -> SkinGPT4:
    """The network without its encoder: a language model of that shape with random weights, a random projection.

    Raises:
        ShapeError: it does not fit.
    """
    family, sizes = ("llama", SMALL) if small else memory.PUBLISHED[MODELS[name]]
    shape = memory.language_shape(shapes.AutoConfig.for_model(family, **sizes))
    weights = memory.weight_bytes(shape, str(dtype).removeprefix("torch."))
    shapes.require_room(name, {"language model": weights}, device)
    torch.manual_seed(0)  # a network built again decodes the same tokens
    language = shapes.random_language_model(family, sizes, device, dtype)
    loaded = language, shapes.stand_in_tokenizer()
    model = SkinGPT4(None, LanguageModel(LanguageConfig(), device, loaded), QUERY_WIDTH)
    model.projection.to(device)
    return model


def measure(setting: options.Setting, stages: Stages) -> None:
    """All stages, in the order in which they are wanted if time runs out."""
    args, device = setting.args, setting.device
    small = args.small
    top = setting.ceiling()
    stages.result["ceiling"] = top.to_dict()
    stages.result["peak_bytes"] = (
        "of torch's allocator on a GPU, of the process on a CPU; above what stood there before"
    )
    built: dict[str, tuple[SkinGPT4, memory.LanguageShape]] = {}

    def build_stage(name: str) -> bool:
        def make() -> dict[str, Any]:
            model = build(name, device, setting.dtype, small)
            built[name] = model, memory.language_shape(model.language_model.config)
            weights = sum(p.numel() * p.element_size() for p in model.parameters())
            return {"weights_bytes": weights, "line": f"{weights / 2**30:.2f} GiB of weights"}

        built.clear()
        release()
        stages.run(f"{name} build", make, 5 if small else 20)
        return name in built

    def train_stage(name: str, size: int, way: str, guess: float) -> None:
        model, shape = built[name]
        seconds = 0.01 if small else 6.0

        def work() -> dict[str, Any]:
            return (train_compiled if way else train)(model, shape, top, size, seconds)

        stages.run(f"{name} train {size}{way}", work, 1 if small else guess)

    def decode_stage(name: str, rows: int, way: str, guess: float) -> None:
        language = built[name][0].language_model.model
        stages.run(
            f"{name} decode {rows} {way}",
            lambda: decode(language, top, rows, way, small),
            1 if small else guess,
        )

    for name in args.models:
        if not build_stage(name):
            continue
        for size in (2, 4) if small else BATCHES:
            train_stage(name, size, "", 15)
        for way, guess in (("plain", 10), ("graph", 15)):
            for rows in (1, 2) if small else (1, 32):
                decode_stage(name, rows, way, guess)
    for name in args.models:  # what takes a compiler comes when all the rest is written down
        if not build_stage(name):
            continue
        decode_stage(name, 1, "compiled", 120)
        train_stage(name, 2 if small else 16, " compiled", 120)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = options.parser("gpu", __doc__)
    parser.add_argument("--minutes", type=float, default=9.0, help="after which no stage begins (default: 9)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="in this order")
    with reported() as status:
        setting = options.settle("gpu", parser, argv)
        if setting.device.type != "cuda" and not setting.args.small:
            raise shapes.ShapeError(
                "there is no GPU here; --small tries the whole path on the CPU, its figures say nothing"
            )
        if setting.device.type == "cuda":
            setting.dtype = torch.bfloat16
        stages = Stages(setting, setting.args.minutes)
        measure(setting, stages)
        failed = [name for name, found in stages.result["stages"].items() if "failed" in found]
        status.code = int(bool(failed))
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
