"""All benchmarks by name: python -m benchmarks NAME --help."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": ("speed.train", "a training step, ours against the original's way"),
    "levers": ("speed.levers", "a training step without each lever in turn"),
    "scoring": ("speed.scoring", "15 classes in one pass against one by one"),
    "chat": ("speed.chat", "a consultation of four turns, ours against the original's way"),
    "serving": ("speed.serving", "several consultations at once"),
    "engines": ("speed.engines", "a vLLM server against the own decoder: the same tokens, and how fast"),
    "laptop": ("laptop.command", "OpenVINO and llama.cpp against the own decoder on a CPU"),
    "laptop-cases": ("laptop.cases", "what fewer bits of llama.cpp change in answers about cases"),
    "decode": ("speed.decode", "tokens per second, and bytes per second against a copy"),
    "scaling": ("speed.scaling", "throughput over batch, length, records and processes: table and plot"),
    "cpu": ("speed.cpu", "settings of the default on a CPU, side by side"),
    "gpu": ("speed.gpu", "everything for one GPU in one call of under ten minutes"),
    "learning": ("learning.curve", "a learning curve on stored vectors, beside a probe of them"),
    "qformers": ("learning.qformers", "what Q-Formers keep of what their backbone saw"),
    "stages": ("learning.stages", "where a trained model loses the classes of drawings, stage by stage"),
    "learning-vectors": ("learning.vectors", "the vectors of manifests' pictures, for `learning`"),
    "headline": ("learning.headline", "the quickstart with its ablation, for several seeds of training"),
    "precision": ("learning.precision", "what a lower precision changes, beside fp32"),
    "memory-estimate": (
        "memory.estimate",
        "the table of docs/memory.md, and the estimate against measurement",
    ),
    "memory-recipes": ("memory.recipes", "the table of docs/recipes.md: each recipe on its card, estimated"),
    "memory-encoder": ("memory.encoder", "host memory of loading the image encoder"),
    "memory-language": ("memory.language", "host memory of loading a language model, by precision"),
    "memory-delta": ("memory.delta", "host memory of merging a Vicuna delta"),
    "scale": ("scale.command", "training on 1 to 64 GPUs, calculated: the tables of docs/scale.md"),
    "records-start": ("records.start", "start-up and memory of a training's records, up to a million"),
    "records-scale": (
        "records.scale",
        "manifest, shards and feature store of 10 thousand to 1 million records",
    ),
    "prepare": ("records.prepare", "images per second and memory of data preparation"),
    "near-duplicates": ("records.near_duplicates", "copies that a perceptual hash finds and confuses"),
    "quality": ("records.quality", "what the image quality gate detects, by skin type"),
}
HELP = (
    "usage: python -m benchmarks NAME [--help] ...\n\n"
    + "\n".join(f"  {name:<16} {what}" for name, (_, what) in COMMANDS.items())
    + "\n\nResults go to benchmarks/results/ with command, hardware, versions and commit.\n"
    "Research software, not a medical device."
)


def main(argv: Sequence[str]) -> int:
    """Run the benchmark of that name; returns its exit status."""
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP)
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        print(f"error: no benchmark '{argv[0]}'; choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module, _ = COMMANDS[argv[0]]
    return importlib.import_module(f"benchmarks.{module}").main(list(argv[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
