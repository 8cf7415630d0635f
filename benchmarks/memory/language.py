"""How much host memory loading a language model takes, by precision; counters as in `benchmarks.memory.process`.

A file in the requested precision stays memory-mapped: its pages are read when they are used, and the kernel may drop
them. For another precision it is converted tensor by tensor; then the pages of the file count until they are dropped,
and RssAnon is what the machine must really have.

    python -m benchmarks memory-language weights/smollm2-135m-instruct
    python -m benchmarks memory-language weights/smollm2-135m-instruct --random   # 1.2 B parameters: 3 GB of disk

Research software, not a medical device.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.memory.process import Sampler, memory, require_linux, run_fresh
from skingpt4.support.errors import reported

NAME = "memory-language"


def measure(folder: str, dtype: str) -> dict[str, Any]:
    """Load once in this process, which must be fresh, and read one token."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from skingpt4.config.schema import LanguageConfig
    from skingpt4.model.language import LanguageModel

    with torch.device("meta"):  # the family's code belongs to the baseline
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    baseline = memory()
    with Sampler() as loading:
        model = LanguageModel(LanguageConfig(folder, dtype, attention="sdpa"))
    with Sampler() as running, torch.no_grad():
        model(input_ids=torch.tensor([[1]]))
    num_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    peaks = {k: max(loading.peak[k], running.peak[k]) for k in loading.peak}
    return {
        "weights_bytes": num_bytes,
        "baseline_bytes": baseline,
        "peak_bytes": peaks,
        "peak_over_weights": round((peaks["VmHWM"] - baseline["VmRSS"]) / num_bytes, 4),
        "anonymous_over_weights": round((peaks["RssAnon"] - baseline["RssAnon"]) / num_bytes, 4),
    }


def write_random(tokenizer_folder: str, folder: Path) -> None:
    """Write a Llama of 1.2 B random numbers in bf16, 2048 wide with 22 layers, with another model's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    config = AutoConfig.for_model(
        "llama", hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
        num_key_value_heads=4, vocab_size=len(tokenizer), tie_word_embeddings=False,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each precision in a fresh process and record them."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {NAME}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", help="a local language model")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/load_memory_language.json"))
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help=argparse.SUPPRESS)
    parser.add_argument("--random", action="store_true", help="a larger, random model with its tokenizer")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    with reported() as status:
        if args.write:
            write_random(args.folder, args.write)
        elif args.dtype:
            print(json.dumps(measure(args.folder, args.dtype)))
        elif args.random:
            with tempfile.TemporaryDirectory() as folder:
                run_fresh(NAME, args.folder, "--write", folder)
                record(folder, "random Llama of 1.2 B in bfloat16", args.out)
        else:
            record(args.folder, Path(args.folder).name, args.out)
    return status.code


def table(result: dict[str, Any]) -> str:
    """Markdown, as docs/memory.md shows it: peaks over the bytes of the loaded weights."""
    lines = [
        "| file | loaded as | private memory | with the file's mapped pages, which the kernel may drop |",
        "|---|---|---|---|",
    ]
    for name, model in result.items():
        lines += [
            f"| {name} | {dtype} | {run['anonymous_over_weights']:.2f} | {run['peak_over_weights']:.2f} |"
            for dtype, run in model["runs"].items()
        ]
    return "\n".join(lines)


def record(folder: str, name: str, out: Path) -> None:
    """Measure each precision in a fresh process; models measured before stay in the file."""
    from benchmarks.harness.results import (  # large imports, which measured processes must not make
        about,
        write,
    )

    require_linux()
    runs = {}
    for dtype in ("float32", "bfloat16", "float16"):
        runs[dtype] = json.loads(run_fresh(NAME, folder, "--dtype", dtype))
        print(f"{dtype}: {runs[dtype]}")
    results = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    write(results | {name: {"runs": runs, **about([NAME, name])}}, out)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
