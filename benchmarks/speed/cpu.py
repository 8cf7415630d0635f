"""Settings of the bundled default on a CPU, side by side: python -m benchmarks cpu.

Precision, attention and quantisation, each with one thread and with all: seconds to read a prompt with a picture,
tokens a second of an answer, seconds of a training step (all threads), and how much of the greedy answers stays what
fp32 says. All models are in memory at once and measured in turns, round by round; the fastest round counts.

Research software, not a medical device.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from benchmarks.harness import hardware, options, shapes, workload
from data.phantoms.splits import render_phantom
from skingpt4.checkpoints.load import load_model
from skingpt4.model.build import build_encoder
from skingpt4.model.network import SkinGPT4
from skingpt4.model.precision import num_bytes
from skingpt4.model.prompts import Encoded, Turn, encode_turns, get_template, stop_strings
from skingpt4.records.images import to_tensor
from skingpt4.support.errors import UserError, reported
from skingpt4.training import loop
from skingpt4.training.batches import collate_rows

QUESTION = "What is wrong with my skin?"


@dataclass(frozen=True)
class Kept:
    """How the language model is kept and run."""

    dtype: str
    attention: str
    quantization: str = "none"

    @property
    def name(self) -> str:
        """E.g. ``bfloat16 sdpa`` or ``float32 eager torchao_int8``."""
        return " ".join([self.dtype, self.attention, *([self.quantization] * (self.quantization != "none"))])


SETTINGS = (
    Kept("float32", "eager"),  # the first is what answers are compared with
    Kept("float32", "sdpa"),
    Kept("bfloat16", "eager"),
    Kept("bfloat16", "sdpa"),
    Kept("float32", "eager", "torchao_int8"),
    Kept("float32", "eager", "int8"),
)


def load(kept: Kept, checkpoint: str | None) -> tuple[SkinGPT4, Any]:
    """The default kept that way, without its encoder; its configuration.

    Raises:
        UserError: its library has no kernels for this CPU, or another reason not to.
    """
    config = shapes.configuration("tiny")
    config.language.dtype, config.language.attention = kept.dtype, kept.attention
    config.language.quantization = kept.quantization
    wanted = {"int8": "bitsandbytes", "torchao_int8": "torchao"}.get(kept.quantization)
    if wanted and not importlib.util.find_spec(wanted):
        raise UserError(f"{wanted} is not installed")
    return load_model(config, checkpoint, torch.device("cpu"), with_encoder=False), config


class Bench:
    """One setting's model and what it is asked."""

    def __init__(self, model: SkinGPT4, config: Any, queries: torch.Tensor, tokens: int, batch: int) -> None:
        """Encode the prompt and one training batch."""
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
        rows = [[{"encoded": encode(a), "queries": q}] for a, q in zip(answers, shown, strict=True)]
        self.batch = collate_rows(rows)
        self.accelerator = Accelerator(mixed_precision="no", cpu=True)
        self.optimizer = loop.make_optimizer(model, config.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0  # the answers of a later round are those of this one

    def answers(self, limit: int) -> list[str]:
        """Greedy answers about each picture."""
        options = {"max_new_tokens": limit, "do_sample": False}
        return [self.model.generate([self.prompt], q[None], self.stop, **options)[0] for q in self.queries]

    @torch.no_grad()
    def read(self) -> None:
        """The prompt with its picture, once."""
        embeds = self.model.embed(torch.tensor([self.prompt.input_ids]), self.queries[:1])
        self.model.language_model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)

    @torch.no_grad()
    def decode(self) -> None:
        """`tokens` tokens after the prompt, each a step of its own; no end is looked for."""
        model = self.model.language_model
        embeds = self.model.embed(torch.tensor([self.prompt.input_ids]), self.queries[:1])
        out = model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)
        began = time.perf_counter()
        for _ in range(self.tokens):
            chosen = out.logits[:, -1:].argmax(-1)
            out = model(input_ids=chosen, past_key_values=out.past_key_values, use_cache=True)
        self.decode_seconds = time.perf_counter() - began

    def train(self) -> None:
        """One step of the product's."""
        self.model.train()
        loop.train_step(self.model, self.optimizer, [self.batch], self.accelerator, 1.0)
        self.model.eval()


def agreement(answers: Sequence[str], wanted: Sequence[str]) -> dict[str, Any]:
    """How many answers are equal, and the share of words up to the first that differs."""
    shares = []
    for ours, theirs in zip(answers, wanted, strict=True):
        both = list(zip(ours.split(), theirs.split(), strict=False))
        same = next((i for i, (a, b) in enumerate(both) if a != b), len(both))
        shares.append(1.0 if ours == theirs else same / max(1, len(theirs.split())))
    equal = sum(a == b for a, b in zip(answers, wanted, strict=True))
    return {
        "equal_answers": equal,
        "of": len(wanted),
        "share_before_the_first_difference": sum(shares) / len(shares),
    }


def seconds_of(work: Callable[[], None]) -> float:
    """Of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(setting: options.Setting) -> dict[str, Any]:
    """All settings in turns."""
    args = setting.args
    config = shapes.configuration("tiny")
    encoder = build_encoder(config)
    vision = encoder.vision_encoder
    size = config.vision.image_size
    pictures = [_picture(number) for number in range(args.pictures)]
    queries = torch.cat([encoder(to_tensor(p, size, vision.mean, vision.std)[None]) for p in pictures])
    benches: dict[str, Bench] = {}
    skipped: dict[str, str] = {}
    for kept in tqdm(SETTINGS, desc="loading", disable=None):
        try:
            model, own = load(kept, args.checkpoint)
            bench = Bench(model, own, queries, args.tokens, args.batch)
            bench.read()
            benches[kept.name] = bench
        except (UserError, RuntimeError, ImportError, NotImplementedError) as error:
            skipped[kept.name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    ceilings = {}
    all_threads = args.threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(all_threads)
    wanted = benches[SETTINGS[0].name].answers(args.tokens)
    agreed = {name: agreement(bench.answers(args.tokens), wanted) for name, bench in benches.items()}
    for threads in dict.fromkeys((args.threads or 1, all_threads)):
        torch.set_num_threads(threads)
        for dtype in (torch.float32, torch.bfloat16):
            ceilings[f"{str(dtype)[6:]}, {threads} threads"] = hardware.ceiling(
                "cpu", dtype, args.small
            ).to_dict()
        for number in tqdm(range(args.pairs), desc=f"rounds, {threads} threads", disable=None):
            for name, bench in benches.items() if number % 2 == 0 else reversed(benches.items()):
                row = rows.setdefault((name, threads), {"read": [], "decode": [], "train": []})
                row["read"].append(seconds_of(bench.read))
                bench.decode()
                row["decode"].append(bench.decode_seconds)
                if number < args.train_rounds and threads == all_threads:
                    row["train"].append(_train_seconds(bench, row))
        gc.collect()
    found = []
    for (name, threads), row in rows.items():
        bench = benches[name]
        trained = [value for value in row["train"] if value is not None]
        found.append({
            "setting": name, "threads": threads,
            "weights_mib": sum(map(num_bytes, bench.model.language_model.parameters())) / 2**20,
            "read_seconds": min(row["read"]), "prompt_tokens": len(bench.prompt.input_ids),
            "decode_tokens_per_second": args.tokens / min(row["decode"]),
            "train_seconds": min(trained) if trained else None, "train_refused": row.get("refused"),
            "each": {key: row[key] for key in ("read", "decode", "train")}, **agreed[name],
        })  # fmt: skip
    print(table(found))
    for name, why in skipped.items():
        print(f"skipped {name}: {why}")
    return {
        "what": f"the default on a CPU: prompt of {len(benches[SETTINGS[0].name].prompt.input_ids)} tokens, "
        f"{args.tokens} tokens decoded, a training step of {args.batch}",
        "checkpoint": args.checkpoint, "rows": found, "skipped": skipped, "ceilings": ceilings,
    }  # fmt: skip


def _train_seconds(bench: Bench, row: dict[str, Any]) -> float | None:
    """Of one step; None, and the reason kept, where no gradient passes."""
    try:
        return seconds_of(bench.train)
    except (RuntimeError, NotImplementedError, UserError) as error:
        row["refused"] = str(error).splitlines()[0][:200]
        bench.model.eval()
        return None


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, as docs/placement.md shows it."""
    lines = [
        "| setting | threads | weights MiB | prompt s | tokens/s | training step s | answers equal to fp32 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        step = "-" if row["train_seconds"] is None else f"{row['train_seconds']:.2f}"
        lines.append(
            f"| {row['setting']} | {row['threads']} | {row['weights_mib']:.0f} | {row['read_seconds']:.3f} | "
            f"{row['decode_tokens_per_second']:.1f} | {step} | {row['equal_answers']} of {row['of']} |"
        )
    return "\n".join(lines)


def _picture(number: int) -> Any:
    from PIL import Image

    return Image.fromarray(render_phantom(0, "benchmark", number).image)


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
        setting = options.settle("cpu", parser, argv)
        if setting.args.small:
            args = setting.args
            args.tokens, args.batch, args.pictures, args.pairs, args.train_rounds = 2, 1, 1, 1, 0
        setting.save(measure(setting))
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
