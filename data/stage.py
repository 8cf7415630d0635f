"""Copy packed pictures from object storage: python -m data.stage s3://bucket/packed/train.jsonl --out-dir DIR."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from skingpt4.support.errors import reported


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m data.stage",
        description="Copy a manifest that python -m data.pack has written, and its tar shards, from object storage "
        "or any other place that fsspec reads. Repeated, it copies what is missing. Research software, not a medical "
        "device.",
        epilog="example: python -m data.stage s3://bucket/packed/train.jsonl --out-dir runs/packed/dermnet "
        "(s3:// needs the package s3fs, gs:// gcsfs; keys and servers are set as for those)",
    )
    parser.add_argument("address", help="of the manifest; the shards lie beside it, as it names them")
    parser.add_argument("--out-dir", required=True, type=Path, help="gets the manifest and shards/")
    args = parser.parse_args(argv)
    # After parsing, so that --help is instant.
    from data.preparing.staging import stage
    from skingpt4.records.manifest import read_manifest

    with reported() as status:
        target = stage(args.address, args.out_dir)
        print(f"{target}: {len(read_manifest(target))} records")
    return status.code


if __name__ == "__main__":
    sys.exit(main())
