"""The options that all benchmarks of speed share, and what follows from them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import hardware
from benchmarks.harness.results import RESULTS, about, write
from benchmarks.harness.shapes import SHAPES, Shape
from skingpt4.config.placement import default_device
from skingpt4.model.precision import DTYPES, choose_dtype, require_device
from skingpt4.support.threads import in_own_thread


@dataclass
class Setting:
    """What a benchmark measures, where and how often, and where its result goes."""

    name: str
    argv: Sequence[str]
    shape: Shape
    device: torch.device
    dtype: torch.dtype
    pairs: int
    small: bool
    out: Path

    @property
    def dtype_name(self) -> str:
        """E.g. ``bfloat16``."""
        return str(self.dtype).removeprefix("torch.")

    def ceiling(self) -> hardware.Ceiling:
        """The machine's own rates, measured now; printed."""
        top = in_own_thread(lambda: hardware.ceiling(self.device, self.dtype, small=self.small))
        threads = f", {top.threads} threads" if self.device.type == "cpu" else ""
        print(
            f"this machine now: matrix product {top.matrix_tflops:.3g} TFLOP/s ({top.dtype}{threads}), "
            f"copy {top.copy_bytes_per_second / 1e9:.3g} GB/s",
            flush=True,
        )
        return top

    def save(self, result: dict[str, Any]) -> None:
        """Write the result with what it depends on."""
        facts = about([self.name, *self.argv], self.device)
        write({**facts, "shape": self.shape.name, "dtype": self.dtype_name, **result}, self.out)


def parser(name: str, description: str | None, pairs: int = 5) -> argparse.ArgumentParser:
    """A parser with the shared options: shape, device, precision, threads, pairs, out."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--shape", choices=SHAPES, default="tiny", help="tiny is the bundled default (default: tiny)"
    )
    made.add_argument("--device", help="default: a GPU, if there is one")
    made.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="of the language model")
    made.add_argument("--threads", type=int, help="of the CPU (default: torch's own)")
    made.add_argument(
        "--pairs", type=int, default=pairs, help="how often each side runs (default: %(default)s)"
    )
    made.add_argument("--out", type=Path, metavar="FILE", help="default: benchmarks/results/NAME.json")
    made.add_argument(
        "--small", action="store_true", help="takes seconds, to try the path; its figures mean nothing"
    )
    return made


def settle(
    name: str, made: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[Setting, argparse.Namespace]:
    """Parse, check the device, set the threads; returns the shared options, and all arguments.

    Raises:
        DeviceError: this machine has no such device.
    """
    argv = list(argv or [])
    args = made.parse_intermixed_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device or default_device())
    require_device(str(device), "--device")
    ending = "" if args.shape == "tiny" else f"_{args.shape}"
    setting = Setting(
        name=name,
        argv=argv,
        shape=SHAPES[args.shape],
        device=device,
        dtype=choose_dtype(args.dtype, device),
        pairs=1 if args.small else args.pairs,
        small=args.small,
        out=args.out or RESULTS / f"{name}{ending}.json",
    )
    return setting, args
