"""The machine a figure was measured on, and what it can do: a matrix product and a copy, timed in the same run."""

from __future__ import annotations

import gc
import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from skingpt4.support.memory import return_freed_memory
from skingpt4.support.threads import num_cores

# (rows, inner, columns): squares, and the long thin products of a small decoder over a batch of tokens.
CPU_SHAPES = ((1024, 1024, 1024), (2048, 2048, 2048), (1024, 576, 1536), (1024, 1536, 576))
CUDA_SHAPES = ((8192, 8192, 8192), (4096, 4096, 4096), (16384, 4096, 4096), (16384, 4096, 11008))
LIBRARIES = ("torch", "transformers", "accelerate", "timm", "safetensors", "numpy", "pyarrow", "pillow")
CPU_COPY_BYTES, CUDA_COPY_BYTES = 1 << 28, 1 << 32


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Processor, cores, memory, load and, of a GPU, its name and memory."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", info.read_text()) if info.is_file() else None
    facts: dict[str, Any] = {
        "cpu": model[1] if model else platform.machine(),
        "cores": num_cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(terse=True),
        "load": [round(value, 1) for value in os.getloadavg()],
    }
    if torch.device(device).type == "cuda":
        card = torch.cuda.get_device_properties(device)
        facts |= {"gpu": card.name, "gpu_memory_gib": round(card.total_memory / 2**30, 1)}
    return facts


def versions() -> dict[str, str]:
    """Python and the libraries that do the work."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def synchronize(device: torch.device | str) -> None:
    """Wait until a GPU has finished its queue; a CPU has none."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], Any], device: torch.device | str, seconds: float = 0.3) -> float:
    """Seconds of one call: the fastest of as many as fit into `seconds`, at least three, after two untimed ones."""
    for _ in range(2):
        work()
    best, spent, calls = float("inf"), 0.0, 0
    while calls < 3 or spent < seconds:
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        took = time.perf_counter() - began
        best, spent, calls = min(best, took), spent + took, calls + 1
    return best


@dataclass(frozen=True)
class Ceiling:
    """What the machine achieved in this very run, on random data; no datasheet is used."""

    dtype: str
    threads: int  # of the CPU; a GPU's product does not depend on it
    matrix_tflops: float  # the best of several shapes
    matrix_shape: tuple[int, int, int]
    copy_bytes_per_second: float  # read and written bytes together

    def to_dict(self) -> dict[str, Any]:
        """For a result's JSON."""
        return asdict(self)


@torch.no_grad()
def ceiling(device: torch.device | str, dtype: torch.dtype, small: bool = False) -> Ceiling:
    """Measure the matrix product (TFLOP/s) and the copy (bytes/s).

    Args:
        device: cpu or a GPU.
        dtype: of the product.
        small: one small shape, for a test.
    """
    on_gpu = torch.device(device).type == "cuda"
    shapes = CUDA_SHAPES if on_gpu else CPU_SHAPES[:1] if small else CPU_SHAPES
    best, best_shape = 0.0, shapes[0]
    for rows, inner, columns in shapes:
        a = torch.randn(rows, inner, device=device).to(dtype)
        b = torch.randn(columns, inner, device=device).to(dtype)  # the layout of nn.Linear's weight
        took = timed(lambda a=a, b=b: torch.nn.functional.linear(a, b), device, 0.02 if small else 0.3)  # type: ignore[misc]
        rate = 2 * rows * inner * columns / took / 1e12
        if rate > best:
            best, best_shape = rate, (rows, inner, columns)
    size = CUDA_COPY_BYTES if on_gpu else CPU_COPY_BYTES >> 4 * small
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    took = timed(lambda: target.copy_(source), device, 0.02 if small else 0.3)
    name = str(dtype).removeprefix("torch.")
    return Ceiling(name, torch.get_num_threads(), best, best_shape, 2 * size / took)


def roofline(top: Ceiling, seconds: float, flops: float = 0.0, read_bytes: float = 0.0) -> dict[str, Any]:
    """What was achieved, compared with what the machine can do.

    Args:
        top: measured in the same run.
        seconds: that the work took.
        flops: floating-point operations counted in it (a multiply-add is two); 0: not counted.
        read_bytes: bytes that had to be read, in decoding the weights once a token; 0: not counted.

    Returns:
        tflops and matrix_share, bytes_per_second and copy_share, as far as counted, and a `line` to print.
    """
    achieved: dict[str, Any] = {}
    words = []
    if flops:
        rate = flops / seconds / 1e12
        achieved |= {"tflops": rate, "matrix_share": rate / top.matrix_tflops}
        words.append(f"{rate:.3g} TFLOP/s, {rate / top.matrix_tflops:.0%} of the matrix product's")
        words[-1] += f" {top.matrix_tflops:.3g} in {top.dtype}"
    if read_bytes:
        rate = read_bytes / seconds
        achieved |= {"bytes_per_second": rate, "copy_share": rate / top.copy_bytes_per_second}
        words.append(f"{rate / 1e9:.3g} GB/s, {rate / top.copy_bytes_per_second:.0%} of the copy's")
        words[-1] += f" {top.copy_bytes_per_second / 1e9:.3g}"
    return achieved | {"line": "roofline: " + "; ".join(words)}


class PeakMemory:
    """The peak of memory above what was held at entry, in bytes, as `peak_bytes`.

    On a GPU it is torch's own counter; on Linux the kernel's peak of resident memory (VmHWM), reset at entry after
    freed memory was returned to the system; elsewhere None.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.peak_bytes: int | None = None

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        elif platform.system() == "Linux":
            return_freed_memory()  # what the C library holds would hide a part of the next peak
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
            self._before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.peak_bytes = torch.cuda.max_memory_allocated(self.device) - self._before
        elif platform.system() == "Linux":
            self.peak_bytes = max(0, _status("VmHWM") - self._before)


def _status(key: str) -> int:
    match = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match
    return int(match[1]) * 1024
