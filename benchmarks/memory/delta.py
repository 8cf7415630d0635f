"""How much host memory the merge of a Vicuna delta takes, at the full size of 7 B.

Writes a LLaMA (pickled, one file for each layer) and a delta for it (two safetensors files, the first of three
quarters) with the real shapes and made-up numbers, merges them in a fresh process, records the peaks (see
`benchmarks.memory.process`), and compares tensors of the result with the sum.

    python -m benchmarks memory-delta            # needs 41 GB of free disk
    python -m benchmarks memory-delta --small    # 300 MB, to try the script

Research software, not a medical device.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory.process import Sampler, memory, require_linux, run_fresh, save
from skingpt4.support.errors import reported

NAME = "memory-delta"
FULL = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "vocab_size": 32000}
SMALL = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 40, "vocab_size": 8000}
LIMIT_BYTES = 8e9
CHECKED = ("model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight")


def shapes(sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama, in the order of its layers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def made_up(number: int, shape: tuple[int, ...], scale: float, mean: float = 0.0) -> Tensor:
    """Reproducible fp16 numbers: a block of random ones, repeated."""
    block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(number % 8)) * scale + mean
    numel = torch.Size(shape).numel()
    return block.half().repeat(numel // len(block) + 1)[:numel].reshape(shape)


def base_tensor(number: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor of the LLaMA; norms are around one."""
    return made_up(number, shape, 0.02, 1.0 if "norm" in name else 0.0)


def delta_tensor(number: int, shape: tuple[int, ...]) -> Tensor:
    """A tensor of the delta."""
    return made_up(number + 1, shape, 0.002)


def write_pair(folder: Path, sizes: dict[str, int]) -> None:
    """Write `folder/llama` and `folder/delta`."""
    tensors = list(shapes(sizes).items())
    config = json.dumps({**sizes, "model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    files: dict[str, dict[str, str]] = {"llama": {}, "delta": {}}
    for model in files:
        (folder / model).mkdir()
        (folder / model / "config.json").write_text(config)
    layers = sizes["num_hidden_layers"]
    for layer in range(layers + 1):  # the last file holds the tensors outside of the layers
        held = {
            name: base_tensor(number, name, shape)
            for number, (name, shape) in enumerate(tensors)
            if (f".layers.{layer}." in name) or (layer == layers and ".layers." not in name)
        }
        file = f"pytorch_model-{layer + 1:05d}-of-{layers + 1:05d}.bin"
        torch.save(held, folder / "llama" / file)
        files["llama"] |= dict.fromkeys(held, file)
    cut = 3 * len(tensors) // 4
    for part, start, end in ((1, 0, cut), (2, cut, len(tensors))):
        file = f"model-{part:05d}-of-00002.safetensors"
        _write_streaming(folder / "delta" / file, tensors, start, end)
        files["delta"] |= dict.fromkeys((name for name, _ in tensors[start:end]), file)
    for model, kind in (("llama", "pytorch_model.bin"), ("delta", "model.safetensors")):
        index = json.dumps({"weight_map": files[model]})
        (folder / model / f"{kind}.index.json").write_text(index)


def _write_streaming(path: Path, tensors: list[tuple[str, tuple[int, ...]]], start: int, end: int) -> None:
    """A safetensors file of delta tensors `start` to `end`, one in memory at a time."""
    header, offset = {}, 0
    for name, shape in tensors[start:end]:
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for number in range(start, end):
            file.write(delta_tensor(number, tensors[number][1]).numpy().tobytes())


def measure(folder: Path, shard_bytes: int) -> dict[str, Any]:
    """Merge once in this process, which must be fresh."""
    from skingpt4.weights.delta import merge, plan

    planned = plan(folder / "llama", folder / "delta", shard_bytes)
    baseline = memory()
    began = time.perf_counter()
    with Sampler() as sampler:
        merge(planned, folder / "out", quiet=True)
    seconds = time.perf_counter() - began
    return {
        "result_bytes": planned.num_bytes,
        "files": len(planned.shards),
        "shard_bytes": shard_bytes,
        "baseline_bytes": baseline,
        "peak_bytes": sampler.peak,
        "seconds": round(seconds, 1),
    }


def is_the_sum(folder: Path, sizes: dict[str, int]) -> bool:
    """Whether a few tensors of the result are base + delta, to the last bit."""
    from skingpt4.weights.delta_files import ModelFiles

    merged = ModelFiles(folder / "out")
    return all(
        torch.equal(merged.read(name), base_tensor(number, name, shape) + delta_tensor(number, shape))
        for number, (name, shape) in enumerate(shapes(sizes).items())
        if name in CHECKED
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Write, merge, compare, record; 1 if the peak is above the limit or the result is not the sum."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {NAME}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--small", action="store_true", help="a small model, to try the script")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/load_memory_delta.json"))
    parser.add_argument(
        "--folder", type=Path, help="where the models are written (default: a temporary folder)"
    )
    parser.add_argument("--merge", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    sizes, shard_bytes = (SMALL, 6_000_000) if args.small else (FULL, 2_000_000_000)
    with reported() as status:
        if args.merge:
            print(json.dumps(measure(args.merge, shard_bytes)))
            return 0
        require_linux()
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            write_pair(Path(folder), sizes)
            run = json.loads(run_fresh(NAME, "--merge", folder, *(["--small"] if args.small else [])))
            equal = is_the_sum(Path(folder), sizes)
        result = {
            "what": "host memory of merging a Vicuna delta with its LLaMA, made-up numbers in the real shapes",
            "files": "LLaMA as .bin, a file a layer; delta as two safetensors", "sizes": sizes,
            "limit_bytes": LIMIT_BYTES, "run": run, "checked_tensors_equal_the_sum": equal,
        }  # fmt: skip
        save(result, [NAME, *(argv or [])], args.out)
        peak = run["peak_bytes"]["VmHWM"]
        print(f"{run['result_bytes'] / 1e9:.2f} GB merged in {run['seconds']} s; peak {peak / 1e9:.2f} GB")
        status.code = int(not equal or peak > LIMIT_BYTES)
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
