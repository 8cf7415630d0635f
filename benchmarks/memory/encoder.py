"""How much host memory loading the image encoder takes, at its full size of 1.0 B + 0.1 B random weights.

Writes random weights in LAVIS's two files and in the precisions these are published in (EVA fp16, Q-Former fp32),
loads them in a fresh process through `build_encoder`, runs one picture on the CPU and records the peak. Each
measured process reads its own counters: VmHWM is the kernel's peak of resident memory, file-mapped pages included;
RssAnon and RssFile are sampled every 10 ms.

    python -m benchmarks.memory.encoder            # needs 9 GB of free disk and 6 GB of memory
    python -m benchmarks.memory.encoder --small    # a network of kilobytes, to try the script

Research software, not a medical device.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SMALL: dict[str, Any] = {
    "vision": {"model_args": {"embed_dim": 32, "depth": 2, "num_heads": 2}, "image_size": 56},
    "qformer": {
        "width": 32,
        "num_layers": 2,
        "num_heads": 2,
        "intermediate_width": 64,
        "num_query_tokens": 4,
    },
}
FULL: dict[str, Any] = {"vision": {"model_args": {"depth": 39}}, "qformer": {}}
LIMIT = 1.2  # peak over the bytes of the loaded weights


def encoder_config(sizes: dict[str, Any], folder: Path) -> Any:
    """The configuration of an encoder whose weights stand in `folder`."""
    from skingpt4.config.schema import Config

    config = Config(step="none", output_dir=str(folder / "run"))
    config.vision.norm_eps = 1e-5
    for part, values in sizes.items():
        for name, value in values.items():
            setattr(getattr(config, part), name, value)
    config.vision.weights, config.qformer.weights = str(folder / "eva_vit_g.pth"), str(folder / "blip2.pth")
    return config


def write_weights(sizes: dict[str, Any], folder: Path) -> None:
    """Random weights as `eva_vit_g.pth` (fp16) and `blip2.pth` (fp32)."""
    import torch

    from skingpt4.model.lavis import to_lavis
    from skingpt4.model.qformer import QFormer
    from skingpt4.model.vision import VisionEncoder
    from skingpt4.weights.files.source import built_without_memory

    config = encoder_config(sizes, folder)
    vision = built_without_memory(lambda: VisionEncoder(config.vision))
    qformer = built_without_memory(lambda: QFormer(config.qformer, vision.width))
    generator = torch.Generator().manual_seed(0)
    eva, blip2 = to_lavis(vision, qformer)
    for tensors, path, dtype in (
        (eva, config.vision.weights, torch.float16),
        (blip2, config.qformer.weights, torch.float32),
    ):
        made = {n: (torch.randn(t.shape, generator=generator) * 0.02).to(dtype) for n, t in tensors.items()}
        torch.save({"model": made} if dtype == torch.float32 else made, path)


class Sampler:
    """Peaks of RssAnon and RssFile (bytes) of this process while it is entered."""

    def __enter__(self) -> Sampler:
        """Forget earlier peaks and begin."""
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        self.peak = {"RssAnon": 0, "RssFile": 0}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End; `peak` then has VmHWM too."""
        self._end.set()
        self._thread.join()
        self.peak["VmHWM"] = memory()["VmHWM"]

    def _sample(self) -> None:
        while not self._end.is_set():
            now = memory()
            self.peak = {key: max(value, now[key]) for key, value in self.peak.items()}
            self._end.wait(0.01)


def memory() -> dict[str, int]:
    """VmRSS, VmHWM, RssAnon and RssFile of this process in bytes."""
    text = Path("/proc/self/status").read_text()
    names = ("VmRSS", "VmHWM", "RssAnon", "RssFile")
    return {n: int(re.search(rf"^{n}:\s+(\d+) kB", text, re.M)[1]) * 1024 for n in names}  # type: ignore[index]


def measure(sizes: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Load and run once in this process, which should be fresh."""
    import torch

    from skingpt4.model.build import build_encoder

    config = encoder_config(sizes, folder)
    size = config.vision.image_size
    with torch.no_grad():  # the libraries' own memory belongs to the baseline
        torch.nn.functional.conv2d(torch.zeros(1, 3, size, size), torch.zeros(2, 3, 14, 14), stride=14)
    baseline = memory()
    began = time.perf_counter()
    with Sampler() as loading:
        encoder = build_encoder(config)
    load_seconds = time.perf_counter() - began
    began = time.perf_counter()
    with Sampler() as running:
        queries = encoder(torch.zeros(1, 3, size, size))
    run_seconds = time.perf_counter() - began
    held = [*encoder.parameters(), *encoder.buffers()]
    num_bytes = sum(t.numel() * t.element_size() for t in held)
    peak = max(loading.peak["VmHWM"], running.peak["VmHWM"])
    return {
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "dtypes": sorted({str(t.dtype).removeprefix("torch.") for t in held}),
        "weights_bytes": num_bytes,
        "baseline_bytes": baseline,
        "loading_peak_bytes": loading.peak,
        "running_peak_bytes": running.peak,
        "after_bytes": memory(),
        "peak_over_weights": round((peak - baseline["VmRSS"]) / num_bytes, 4),
        "peak_with_interpreter_over_weights": round(peak / num_bytes, 4),
        "load_seconds": round(load_seconds, 2),
        "run_seconds": round(run_seconds, 2),
        "queries": list(queries.shape),
        "all_finite": bool(queries.isfinite().all()),
    }


def machine() -> dict[str, Any]:
    """What a figure depends on: hardware, versions, commit."""
    import safetensors
    import timm
    import torch
    import transformers

    from skingpt4.checkpoints.checkpoint import git_revision

    info = Path("/proc/cpuinfo").read_text()
    name = re.search(r"model name\s*: (.+)", info)
    return {
        "cpu": name[1] if name else platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        **{module.__name__: module.__version__ for module in (torch, transformers, timm, safetensors)},
        "commit": git_revision(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Write, measure twice (with the conversion and without), record; 1 if a peak is above the limit."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory.encoder", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--small", action="store_true", help="a tiny network, to try the script")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/load_memory.json"))
    parser.add_argument("--step", choices=("write", "measure"), help=argparse.SUPPRESS)
    parser.add_argument(
        "--folder", type=Path, help="where the weights are written (default: a temporary folder)"
    )
    args = parser.parse_args(argv)
    sizes = SMALL if args.small else FULL
    if args.step == "write":
        write_weights(sizes, args.folder)
        return 0
    if args.step == "measure":
        print(json.dumps(measure(sizes, args.folder)))
        return 0
    if not Path("/proc/self/clear_refs").exists():
        print("error: the peaks are read from /proc, so this runs on Linux alone", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        command = [sys.executable, "-m", "benchmarks.memory.encoder", "--folder", folder]
        command += ["--small"] if args.small else []
        subprocess.run([*command, "--step", "write"], check=True)
        runs = {}
        for name in ("first_load_with_conversion", "later_loads"):
            done = subprocess.run(
                [*command, "--step", "measure"], check=True, stdout=subprocess.PIPE, text=True
            )
            runs[name] = json.loads(done.stdout.splitlines()[-1])
            print(f"{name}: peak {runs[name]['peak_over_weights']} x the weights", file=sys.stderr)
    result = {
        "what": "host memory for loading EVA-ViT-g and the Q-Former (random weights) to fp32 on the CPU",
        "files": "eva_vit_g.pth fp16, blip2.pth fp32, in LAVIS's layout",
        "limit": LIMIT,
        "runs": runs,
        "machine": machine(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: run["peak_over_weights"] for name, run in runs.items()}))
    return int(args.small is False and max(run["peak_over_weights"] for run in runs.values()) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
