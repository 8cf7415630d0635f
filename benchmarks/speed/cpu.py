"""Settings of the bundled default on a CPU, side by side: python -m benchmarks cpu.

Precision, attention and quantisation, each with one thread and with all: seconds to read a prompt with an image,
tokens per second of an answer, seconds of a training step (all threads), and how much of the greedy answers is as in
fp32. All models are in memory at once and measured in turns, round by round; the fastest round counts.

Research software, not a medical device.
"""

from __future__ import annotations

import gc
import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from benchmarks.harness import hardware, options, shapes, workload
from skingpt4.checkpoints.load import load_model
from skingpt4.model.build import build_encoder
from skingpt4.model.network import SkinGPT4
from skingpt4.model.precision import num_bytes
from skingpt4.model.prompts import Encoded, Turn, encode_turns, get_template, stop_strings
from skingpt4.records.images import to_tensor
from skingpt4.support.errors import UserError, reported
from skingpt4.support.threads import num_cores
from skingpt4.training import loop
from skingpt4.training.batches import pad_right
from skingpt4.training.optim.optimizer import make_optimizer

QUESTION = "What is wrong with my skin?"


@dataclass(frozen=True)
class Variant:
    """How the language model is stored and run."""

    dtype: str
    attention: str
    quantization: str = "none"

    @property
    def name(self) -> str:
        """E.g. ``bfloat16 sdpa`` or ``float32 eager torchao_int8``."""
        return " ".join([self.dtype, self.attention, *([self.quantization] * (self.quantization != "none"))])


VARIANTS = (
    Variant("float32", "eager"),  # the first is what answers are compared with
    Variant("float32", "sdpa"),
    Variant("bfloat16", "eager"),
    Variant("bfloat16", "sdpa"),
    Variant("float32", "eager", "torchao_int8"),
    Variant("float32", "eager", "int8"),
)


def load(variant: Variant, checkpoint: str | None) -> tuple[SkinGPT4, Any]:
    """The default in that variant, without its encoder, and its configuration.

    Raises:
        UserError: its library is missing or has no kernels for this CPU.
    """
    config = shapes.configuration(shapes.SHAPES["tiny"])
    config.language.dtype, config.language.attention = variant.dtype, variant.attention
    config.language.quantization = variant.quantization
    library = {"int8": "bitsandbytes", "torchao_int8": "torchao"}.get(variant.quantization)
    if library and not importlib.util.find_spec(library):
        raise UserError(f"{library} is not installed")
    return load_model(config, checkpoint, torch.device("cpu"), with_encoder=False), config


class Bench:
    """One variant's model with its prompt and training batch."""

    def __init__(self, model: SkinGPT4, config: Any, queries: torch.Tensor, tokens: int, batch: int) -> None:
        self.model, self.queries, self.tokens = model, queries, tokens
        template = get_template(config.prompt.template)
        self.stop = stop_strings(template, model.tokenizer)
        count = config.qformer.num_query_tokens

        def encode(answer: str | None) -> Encoded:
            return encode_turns(template, [Turn(QUESTION, answer, 1)], model.tokenizer, count)

        self.prompt = encode(None)
        lengths = workload.answer_lengths(batch)
        answers = [workload.answer_of(model.tokenizer, template, n, i) for i, n in enumerate(lengths)]
        shown = [queries[i % len(queries)] for i in range(batch)]
        rows = [{"encoded": encode(a), "queries": q} for a, q in zip(answers, shown, strict=True)]
        self.batch = pad_right(rows)
        self.accelerator = Accelerator(mixed_precision="no", cpu=True)
        self.optimizer = make_optimizer(model, config.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0  # so that later rounds give the same answers

    def answers(self, limit: int) -> list[str]:
        """Greedy answers about each image."""
        options = {"max_new_tokens": limit, "do_sample": False}
        return [self.model.generate([self.prompt], q[None], self.stop, **options)[0] for q in self.queries]

    @torch.no_grad()
    def read(self) -> None:
        """Read the prompt with its image once."""
        embeds = self.model.embed(torch.tensor([self.prompt.input_ids]), self.queries[:1])
        self.model.language_model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)

    @torch.no_grad()
    def decode(self) -> None:
        """Decode `tokens` tokens after the prompt, each in a step of its own; the end token is ignored."""
        model = self.model.language_model
        embeds = self.model.embed(torch.tensor([self.prompt.input_ids]), self.queries[:1])
        out = model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)
        began = time.perf_counter()
        for _ in range(self.tokens):
            chosen = out.logits[:, -1:].argmax(-1)
            out = model(input_ids=chosen, past_key_values=out.past_key_values, use_cache=True)
        self.decode_seconds = time.perf_counter() - began

    def train(self) -> None:
        """One training step of the product."""
        self.model.train()
        loop.train_step(self.model, self.optimizer, [self.batch], self.accelerator, 1.0)
        self.model.eval()


def agreement(answers: Sequence[str], expected: Sequence[str]) -> dict[str, Any]:
    """How many answers are equal, and the mean fraction of words before the first that differs."""
    fractions = []
    for ours, theirs in zip(answers, expected, strict=True):
        both = list(zip(ours.split(), theirs.split(), strict=False))
        same = next((i for i, (a, b) in enumerate(both) if a != b), len(both))
        fractions.append(1.0 if ours == theirs else same / max(1, len(theirs.split())))
    equal = sum(a == b for a, b in zip(answers, expected, strict=True))
    return {
        "equal_answers": equal,
        "of": len(expected),
        "share_before_the_first_difference": sum(fractions) / len(fractions),
    }


def seconds_of(work: Callable[[], None]) -> float:
    """Of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@dataclass
class Size:
    """How much each variant does; `train_rounds` rounds have a training step, `threads` None takes all."""

    tokens: int
    batch: int
    pictures: int
    train_rounds: int
    threads: int | None
    checkpoint: str | None


def measure(setting: options.Setting, size: Size) -> dict[str, Any]:
    """All variants in turns."""
    config = shapes.configuration(shapes.SHAPES["tiny"])
    encoder = build_encoder(config)
    vision = encoder.vision_encoder
    images = [
        to_tensor(workload.drawn_image(n), config.vision.image_size, vision.mean, vision.std)
        for n in range(size.pictures)
    ]
    queries = torch.cat([encoder(image[None]) for image in images])
    benches: dict[str, Bench] = {}
    skipped: dict[str, str] = {}
    for variant in tqdm(VARIANTS, desc="loading", disable=None):
        try:
            model, own = load(variant, size.checkpoint)
            bench = Bench(model, own, queries, size.tokens, size.batch)
            bench.read()
            benches[variant.name] = bench
        except (UserError, RuntimeError, ImportError) as error:
            skipped[variant.name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    ceilings = {}
    all_threads = size.threads or num_cores()
    torch.set_num_threads(all_threads)
    expected = benches[VARIANTS[0].name].answers(size.tokens)
    agreed = {name: agreement(bench.answers(size.tokens), expected) for name, bench in benches.items()}
    for threads in dict.fromkeys((size.threads or 1, all_threads)):
        torch.set_num_threads(threads)
        for dtype in (torch.float32, torch.bfloat16):
            ceilings[f"{str(dtype)[6:]}, {threads} threads"] = hardware.ceiling(
                "cpu", dtype, setting.small
            ).to_dict()
        for number in tqdm(range(setting.pairs), desc=f"rounds, {threads} threads", disable=None):
            for name, bench in benches.items() if number % 2 == 0 else reversed(benches.items()):
                row = rows.setdefault((name, threads), {"read": [], "decode": [], "train": []})
                row["read"].append(seconds_of(bench.read))
                bench.decode()
                row["decode"].append(bench.decode_seconds)
                if number < size.train_rounds and threads == all_threads:
                    row["train"].append(_train_seconds(bench, row))
        gc.collect()
    results = []
    for (name, threads), row in rows.items():
        bench = benches[name]
        trained = [value for value in row["train"] if value is not None]
        results.append({
            "setting": name, "threads": threads,
            "weights_mib": sum(map(num_bytes, bench.model.language_model.parameters())) / 2**20,
            "read_seconds": min(row["read"]), "prompt_tokens": len(bench.prompt.input_ids),
            "decode_tokens_per_second": size.tokens / min(row["decode"]),
            "train_seconds": min(trained) if trained else None, "train_refused": row.get("refused"),
            "each": {key: row[key] for key in ("read", "decode", "train")}, **agreed[name],
        })  # fmt: skip
    print(table({"rows": results}))
    for name, why in skipped.items():
        print(f"skipped {name}: {why}")
    return {
        "what": f"the default on a CPU: prompt of {len(benches[VARIANTS[0].name].prompt.input_ids)} tokens, "
        f"{size.tokens} tokens decoded, a training step of {size.batch}",
        "checkpoint": size.checkpoint, "rows": results, "skipped": skipped, "ceilings": ceilings,
    }  # fmt: skip


def _train_seconds(bench: Bench, row: dict[str, Any]) -> float | None:
    """Seconds of one step; None, with the reason in `row`, if the variant has no gradients."""
    try:
        return seconds_of(bench.train)
    except (RuntimeError, UserError) as error:
        row["refused"] = str(error).splitlines()[0][:200]
        bench.model.eval()
        return None


def table(result: dict[str, Any]) -> str:
    """Markdown, as docs/placement.md shows it."""
    lines = [
        "| setting | threads | weights MiB | prompt s | tokens/s | training step s | answers equal to fp32 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        step = "-" if row["train_seconds"] is None else f"{row['train_seconds']:.2f}"
        lines.append(
            f"| {row['setting']} | {row['threads']} | {row['weights_mib']:.0f} | {row['read_seconds']:.3f} | "
            f"{row['decode_tokens_per_second']:.1f} | {step} | {row['equal_answers']} of {row['of']} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = options.parser("cpu", __doc__, pairs=3)
    parser.add_argument("--tokens", type=int, default=32, help="decoded (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=2, help="of the training step (default: %(default)s)")
    parser.add_argument(
        "--train-rounds", type=int, default=1, help="rounds that train (default: %(default)s)"
    )
    parser.add_argument("--pictures", type=int, default=4, help="answers compared (default: %(default)s)")
    parser.add_argument("--checkpoint", help="a trained projection, e.g. runs/quickstart/step2")
    with reported() as status:
        setting, args = options.settle("cpu", parser, argv)
        size = Size(args.tokens, args.batch, args.pictures, args.train_rounds, args.threads, args.checkpoint)
        if setting.small:
            size = Size(2, 1, 1, 0, args.threads, args.checkpoint)
        setting.save(measure(setting, size))
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
