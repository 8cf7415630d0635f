"""How much host memory loading a language model takes, by precision; figures as in `benchmarks.load_memory`.

A file in the asked precision stays memory-mapped: its pages come in when they are used and the kernel may drop
them. Another precision is converted tensor by tensor; then the pages of the file count until they are dropped, and
RssAnon is what the machine must really have.

    python -m benchmarks.load_memory_language weights/smollm2-135m-instruct

Research software, no medical device.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.load_memory import Sampler, machine, memory
from skingpt4.errors import reported


def measure(folder: str, dtype: str) -> dict[str, Any]:
    """Load once in this process, which should be fresh, and read one token."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from skingpt4.language import DTYPES, load_language_model

    with torch.device("meta"):  # the family's code belongs to the baseline
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    baseline = memory()
    with Sampler() as loading:
        model, _ = load_language_model(folder, DTYPES[dtype])
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


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each precision in a fresh process and record them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load_memory_language", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", help="a local language model")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/load_memory_language.json"))
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    with reported() as status:
        if args.dtype:
            print(json.dumps(measure(args.folder, args.dtype)))
            return 0
        runs = {}
        for dtype in ("float32", "bfloat16"):
            command = [sys.executable, "-m", "benchmarks.load_memory_language", args.folder, "--dtype", dtype]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs[dtype] = json.loads(done.stdout.splitlines()[-1])
            print(f"{dtype}: {runs[dtype]}")
        result = {"language_model": Path(args.folder).name, "runs": runs, "machine": machine()}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return status.code


if __name__ == "__main__":
    sys.exit(main())
