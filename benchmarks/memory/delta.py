"""How much host memory the merge of a Vicuna delta takes, at the full size of 7 B.

Writes a LLaMA (pickled, a file a layer) and a delta for it (safetensors, two files, the first of three quarters)
with the shapes of the real ones and made-up numbers, merges them in a fresh process, and compares tensors of the
result with the sum. Figures are those of `benchmarks.memory.encoder`.

    python -m benchmarks.memory.delta            # needs 41 GB of free disk
    python -m benchmarks.memory.delta --small    # 300 MB, to try the script

Research software, not a medical device.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory.encoder import Sampler, machine, memory

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
    """The same fp16 numbers for the same arguments: a block of random ones, repeated from another place each time."""
    block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(number % 8)) * scale + mean
    numel = torch.Size(shape).numel()
    return block.half().repeat(numel // len(block) + 1)[:numel].reshape(shape)


def base_tensor(number: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor of the LLaMA; norms lie around one."""
    return made_up(number, shape, 0.02, 1.0 if "norm" in name else 0.0)


def delta_tensor(number: int, shape: tuple[int, ...]) -> Tensor:
    """A tensor of the delta."""
    return made_up(number + 1, shape, 0.002)


def write_pair(folder: Path, sizes: dict[str, int]) -> None:
    """`folder/llama` and `folder/delta`."""
    wanted = list(shapes(sizes).items())
    config = json.dumps({**sizes, "model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    files: dict[str, dict[str, str]] = {"llama": {}, "delta": {}}
    for model in files:
        (folder / model).mkdir()
        (folder / model / "config.json").write_text(config)
    layers = sizes["num_hidden_layers"]
    for layer in range(layers + 1):  # the last file holds what belongs to no layer
        held = {
            name: base_tensor(number, name, shape)
            for number, (name, shape) in enumerate(wanted)
            if (f".layers.{layer}." in name) or (layer == layers and ".layers." not in name)
        }
        file = f"pytorch_model-{layer + 1:05d}-of-{layers + 1:05d}.bin"
        torch.save(held, folder / "llama" / file)
        files["llama"] |= dict.fromkeys(held, file)
    cut = 3 * len(wanted) // 4
    for part, start, end in ((1, 0, cut), (2, cut, len(wanted))):
        file = f"model-{part:05d}-of-00002.safetensors"
        _write_streaming(folder / "delta" / file, wanted, start, end)
        files["delta"] |= dict.fromkeys((name for name, _ in wanted[start:end]), file)
    for model, kind in (("llama", "pytorch_model.bin"), ("delta", "model.safetensors")):
        index = json.dumps({"weight_map": files[model]})
        (folder / model / f"{kind}.index.json").write_text(index)


def _write_streaming(path: Path, wanted: list[tuple[str, tuple[int, ...]]], start: int, end: int) -> None:
    """A safetensors file of delta tensors `start` to `end`, one in memory at a time."""
    header, offset = {}, 0
    for name, shape in wanted[start:end]:
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for number in range(start, end):
            file.write(delta_tensor(number, wanted[number][1]).numpy().tobytes())


def measure(folder: Path, shard_bytes: int) -> dict[str, Any]:
    """Merge once in this process, which should be fresh."""
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
    """Write, merge, compare, record; 1 if the peak is above the limit or the result is no sum."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory.delta", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--small", action="store_true", help="a small model, to try the script")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/load_memory_delta.json"))
    parser.add_argument(
        "--folder", type=Path, help="where the models are written (default: a temporary folder)"
    )
    parser.add_argument("--merge", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--shard-bytes", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.merge:
        print(json.dumps(measure(args.merge, args.shard_bytes)))
        return 0
    if not Path("/proc/self/clear_refs").exists():
        print("error: the peaks are read from /proc, so this runs on Linux alone", file=sys.stderr)
        return 1
    sizes, shard_bytes = (SMALL, 6_000_000) if args.small else (FULL, 2_000_000_000)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        write_pair(folder, sizes)
        command = [sys.executable, "-m", "benchmarks.memory.delta", "--merge", name]
        command += ["--shard-bytes", str(shard_bytes)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        run = json.loads(done.stdout.splitlines()[-1])
        equal = is_the_sum(folder, sizes)
    result = {
        "what": "host memory of merging a Vicuna delta with its LLaMA, made-up numbers in the real shapes",
        "files": "LLaMA as .bin, a file a layer; delta as two safetensors",
        "sizes": sizes,
        "limit_bytes": LIMIT_BYTES,
        "run": run,
        "checked_tensors_equal_the_sum": equal,
        "machine": machine(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    peak = run["peak_bytes"]
    print(
        f"{run['result_bytes'] / 1e9:.2f} GB merged in {run['seconds']} s; peak {peak['VmHWM'] / 1e9:.2f} GB"
    )
    return int(not equal or peak["VmHWM"] > LIMIT_BYTES)


if __name__ == "__main__":
    sys.exit(main())
