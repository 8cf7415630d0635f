"""How much host memory loading the image encoder takes, at its full size of 1.0 B + 0.1 B random weights.

Writes random weights in LAVIS's two files and in the precisions these are published in (EVA fp16, Q-Former fp32),
loads them in a fresh process through `build_encoder`, runs one image on the CPU and records the peaks (see
`benchmarks.memory.process`).

    python -m benchmarks memory-encoder            # needs 9 GB of free disk and 6 GB of memory
    python -m benchmarks memory-encoder --small    # a network of kilobytes, to try the script

Research software, not a medical device.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.memory.process import Sampler, memory, require_linux, run_fresh, save
from skingpt4.support.errors import reported

NAME = "memory-encoder"
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
    """The configuration of an encoder whose weights are in `folder`."""
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

    from skingpt4.model.encoders.encoder import VisionEncoder
    from skingpt4.model.lavis import to_lavis
    from skingpt4.model.qformer import QFormer
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


def measure(sizes: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Load and run once in this process, which must be fresh."""
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


def main(argv: Sequence[str] | None = None) -> int:
    """Write, measure twice (with the conversion and without), record; 1 if a peak is above the limit."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {NAME}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--small", action="store_true", help="a tiny network, to try the script")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/load_memory.json"))
    parser.add_argument(
        "--folder", type=Path, help="where the weights are written (default: a temporary folder)"
    )
    parser.add_argument("--step", choices=("write", "measure"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    sizes = SMALL if args.small else FULL
    with reported() as status:
        if args.step == "write":
            write_weights(sizes, args.folder)
        elif args.step == "measure":
            print(json.dumps(measure(sizes, args.folder)))
        else:
            require_linux()
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                runs = measure_fresh(folder, ["--small"] if args.small else [])
            result = {
                "what": "host memory for loading EVA-ViT-g and the Q-Former (random weights) to fp32 on the CPU",
                "files": "eva_vit_g.pth fp16, blip2.pth fp32, in LAVIS's layout", "limit": LIMIT, "runs": runs,
            }  # fmt: skip
            save(result, [NAME, *(argv or [])], args.out)
            worst = max(run["peak_over_weights"] for run in runs.values())
            status.code = int(not args.small and worst > LIMIT)
    return status.code


def measure_fresh(folder: str, options: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The first load, which converts the weights, and a later one, each in a fresh process."""
    run_fresh(NAME, "--folder", folder, "--step", "write", *options)
    runs = {}
    for load in ("first_load_with_conversion", "later_loads"):
        runs[load] = json.loads(run_fresh(NAME, "--folder", folder, "--step", "measure", *options))
        print(f"{load}: peak {runs[load]['peak_over_weights']} x the weights")
    return runs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
