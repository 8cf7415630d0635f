"""The table of docs/memory.md, and the estimate against measurement.

python -m benchmarks memory-estimate [--measure].

Research software, not a medical device.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from benchmarks.memory.process import save
from skingpt4.config.load import load_config
from skingpt4.config.schema import Config, LanguageConfig
from skingpt4.doctor import memory
from skingpt4.doctor.shapes import shape_of
from skingpt4.support.errors import UserError, reported
from skingpt4.support.memory import peak_bytes

PRECISIONS = (("float32", "none"), ("bfloat16", "none"), ("bfloat16", "int8"), ("bfloat16", "nf4"))
MODELS = {
    "the default (SmolLM2-135M)": "weights/smollm2-135m-instruct",
    "Vicuna-7B": "lmsys/vicuna-7b-v1.5",
    "Vicuna-13B": "lmsys/vicuna-13b-v1.5",
    "Llama-2-13B-chat": "meta-llama/Llama-2-13b-chat-hf",
    "Falcon-7B-Instruct": "tiiuae/falcon-7b-instruct",
    "Falcon-40B-Instruct": "tiiuae/falcon-40b-instruct",
}
CHAT_TOKENS = 512
# Makes glibc's allocator return freed blocks of 1 MiB and more to the system.
RETURNING = {"MALLOC_MMAP_THRESHOLD_": "1048576"}


def table() -> str:
    """Markdown: GiB for the weights, training at batch 2 and chat, by model and precision."""
    lines = [
        "| language model | precision | its weights | training, batch 2 | training on cached features | chat |",
        "|---|---|---|---|---|---|",
    ]
    tiny = load_config("configs/tiny/step1.yaml")
    big_encoder = memory.encoder_parameters(load_config("configs/paper/step1_vicuna7b.yaml"))
    for title, name in MODELS.items():
        shape = shape_of(name)
        if shape is None:
            raise UserError(f"{name}: is missing; run skingpt4 weights fetch tiny")
        for dtype, quantization in PRECISIONS:
            config = Config(language=LanguageConfig(model=name, attention="sdpa"))
            encoder = big_encoder
            if name == tiny.language.model:
                encoder = memory.encoder_parameters(tiny)
                config.qformer = tiny.qformer
            config.optim.batch_size = 2
            plain = memory.training(config, shape, dtype, encoder, quantization=quantization)
            config.data.feature_cache = "cached"
            cached = memory.training(config, shape, dtype, encoder, 4000, quantization=quantization)
            talk = memory.chat(config, shape, dtype, encoder, CHAT_TOKENS, quantization)
            words = dtype if quantization == "none" else f"{quantization} and {dtype}"
            weights = memory.weight_bytes(shape, dtype, quantization) / memory.GIB
            figures = " | ".join(
                f"{value:.1f}" for value in (weights, *map(memory.gib, (plain, cached, talk)))
            )
            lines.append(f"| {title} | {words} | {figures} |")
    return "\n".join(lines)


def compare(config_path: str, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Estimated and measured peak of a training step and of a chat, each in its own process, in GiB.

    A training step of a larger batch is measured once more with RETURNING, which shows what the allocator keeps.
    """
    config = load_config(config_path, overrides)
    shape = shape_of(config.language.model)
    assert shape is not None
    encoder = memory.encoder_parameters(config)
    rows = []
    for what in ("training", "chat"):
        for dtype in ("float32", "bfloat16") if torch.cpu._is_amx_tile_supported() else ("float32",):
            for batch in (1, 8) if what == "training" else (1,):
                changes = [*overrides, f"language.dtype={dtype}", f"optim.batch_size={batch}"]
                changed = load_config(config_path, changes)
                figures = _measured([what, "--config", config_path, *changes])
                tokens = figures["tokens"]
                parts = (
                    memory.training(changed, shape, dtype, encoder, 0, tokens, changed.data.max_text_tokens)
                    if what == "training"
                    else memory.chat(changed, shape, dtype, encoder, tokens)
                )
                again = _measured([what, "--config", config_path, *changes], RETURNING) if batch > 1 else {}
                rows.append({
                    "what": what, "dtype": dtype, "batch": batch, "tokens": tokens,
                    "estimated_gib": memory.gib(parts) + memory.host_bytes(parts) / memory.GIB,
                    "measured_gib": figures["peak"] / memory.GIB,
                    "returning_gib": again["peak"] / memory.GIB if again else None,
                })  # fmt: skip
    return rows


def _measured(words: Sequence[str], environment: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """What a process of its own measures."""
    command = [sys.executable, "-m", "benchmarks", "memory-estimate", "--child", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | dict(environment))
    if done.returncode:
        raise UserError(f"the measured process failed: {done.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measured_table(result: Mapping[str, Any]) -> str:
    """Markdown, as docs/memory.md shows it."""
    lines = [
        "| what | precision | batch | tokens | estimated GiB | measured GiB | estimated / measured | "
        f"with {' '.join(map('='.join, RETURNING.items()))} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        estimated, measured, less = row["estimated_gib"], row["measured_gib"], row["returning_gib"]
        lines.append(
            f"| {row['what']} | {row['dtype']} | {row['batch']} | {row['tokens']} | {estimated:.2f} | "
            f"{measured:.2f} | {estimated / measured:.2f} | {'-' if less is None else f'{less:.2f}'} |"
        )
    return "\n".join(lines)


def child(what: str, config: Config) -> None:
    """Do one step or chat at full length and print the process's peak of resident memory."""
    device = torch.device("cpu")
    if what == "libraries":
        import skingpt4.chat
        import skingpt4.training  # noqa: F401

        tokens = 0
    elif what == "training":
        from accelerate import Accelerator

        from skingpt4.model.build import build, build_encoder
        from skingpt4.training.loop import train_step
        from skingpt4.training.optim.optimizer import make_optimizer

        cached = bool(config.data.feature_cache)
        model = build(config, device, None if cached else build_encoder(config)).train()
        queries, batch, answer = (
            config.qformer.num_query_tokens,
            config.optim.batch_size,
            config.data.max_text_tokens,
        )
        tokens = queries + 40 + answer
        ids = torch.randint(5, 1000, (batch, tokens))
        labels = ids.clone()
        ids[:, 5 : 5 + queries] = -1
        labels[:, : tokens - answer] = -100
        shown = torch.randn(batch, queries, config.qformer.width)
        rows = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids), "queries": shown}
        optimizer = make_optimizer(model, config.optim)
        for _ in range(2):
            train_step(model, optimizer, [rows], Accelerator(), 1.0)
    else:
        from skingpt4.chat.session import ChatSession
        from skingpt4.checkpoints.known_answer import image
        from skingpt4.checkpoints.load import load_model
        from skingpt4.generation.sampling import Generation

        session = ChatSession(load_model(config, None), config)
        session.add_image(image())
        session.ask("What is wrong with my skin? " * 8, Generation(max_new_tokens=160))
        tokens = len(session.encode(session.turns).input_ids)
    peak = peak_bytes()
    print(json.dumps({"tokens": tokens, "peak": peak}))


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and print; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks memory-estimate",
        description="Memory by model and precision. Research software, not a medical device.",
    )
    parser.add_argument("--measure", action="store_true", help="compare the estimate with this machine's CPU")
    parser.add_argument(
        "--config", default="configs/tiny/step1.yaml", help="what is measured (default: %(default)s)"
    )
    parser.add_argument("--child", choices=("training", "chat", "libraries"), help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the configuration")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmarks/results/memory_estimate.json"),
        help="of --measure (default: %(default)s)",
    )
    words = list(argv or [])
    args = parser.parse_intermixed_args(words)
    with reported() as status:
        if args.child:
            child(args.child, load_config(args.config, args.overrides))
        elif args.measure:
            result = {"config": args.config, "rows": compare(args.config, args.overrides)}
            print(measured_table(result))
            save(result, ["memory-estimate", *words], args.out)
        else:
            print(table())
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
