"""Merge published weight deltas with their base model: skingpt4 delta."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from skingpt4.support.errors import reported
from skingpt4.weights.delta import SHARD_BYTES, merge, plan
from skingpt4.weights.delta_files import DeltaError
from skingpt4.weights.files.headers import TensorInfo


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", required=True, type=Path, help="LLaMA in Hugging Face's layout")
    parser.add_argument("--delta", required=True, type=Path, help="the Vicuna delta for it")
    parser.add_argument("--out", required=True, type=Path, help="the directory to make")
    parser.add_argument(
        "--shard-gb", type=float, default=SHARD_BYTES / 1e9, help="size of a file, bounds memory (default: 2)"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything and write nothing")
    args = parser.parse_args(argv)
    with reported() as status:
        if args.shard_gb <= 0:
            raise DeltaError("--shard-gb must be above 0")
        planned = plan(args.base, args.delta, int(args.shard_gb * 1e9))
        info: TensorInfo = planned.delta.tensors["model.embed_tokens.weight"]
        print(
            f"{args.delta} fits {args.base}: {len(planned.delta.tensors)} tensors, {info.shape[1]} wide, "
            f"{info.shape[0]} tokens, {planned.num_bytes / 1e9:.1f} GB in {len(planned.shards)} files of {info.dtype}"
        )
        if not args.dry_run:
            print(f"merged into {merge(planned, args.out, quiet=not sys.stderr.isatty())}")
    return status.code
