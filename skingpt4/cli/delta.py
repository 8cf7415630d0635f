"""Merge published weight deltas with their base model: skingpt4 delta."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from skingpt4.support.cli import make_parser
from skingpt4.support.errors import reported


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = make_parser("Merge a published Vicuna delta with its base model.")
    result.add_argument("--base", required=True, type=Path, help="LLaMA in Hugging Face's layout")
    result.add_argument("--delta", required=True, type=Path, help="the Vicuna delta for it")
    result.add_argument("--out", required=True, type=Path, help="the directory to make")
    result.add_argument(
        "--shard-gb", type=float, default=2.0, help="size of a file, bounds memory (default: 2)"
    )
    result.add_argument("--dry-run", action="store_true", help="check everything and write nothing")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    args = parser().parse_args(argv)
    with reported(for_others=True) as status:
        from skingpt4.weights.delta import merge, plan
        from skingpt4.weights.delta_files import DeltaError

        if args.shard_gb <= 0:
            raise DeltaError("--shard-gb must be above 0")
        planned = plan(args.base, args.delta, int(args.shard_gb * 1e9))
        info = planned.delta.tensors["model.embed_tokens.weight"]
        print(
            f"{args.delta} fits {args.base}: {len(planned.delta.tensors)} tensors, {info.shape[1]} wide, "
            f"{info.shape[0]} tokens, {planned.num_bytes / 1e9:.1f} GB in {len(planned.shards)} files of {info.dtype}"
        )
        if not args.dry_run:
            print(f"merged into {merge(planned, args.out, quiet=not sys.stderr.isatty())}")
    return status.code
