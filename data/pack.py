"""Pack a manifest's pictures into tar shards: python -m data.pack MANIFEST --out-dir DIR [--shard-size 500MB].

MANIFEST may be the address of a packed one in object storage; then it and its shards are copied.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from skingpt4.support.errors import reported

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """`500MB`, `2GiB` or a number of bytes.

    Raises:
        argparse.ArgumentTypeError: not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?b)?", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * UNITS[(match[2] or "").upper()]) if match else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write e.g. 500MB or 2GB")
    return size


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m data.pack",
        description="Pack a manifest's pictures into tar shards. Metadata of cameras is dropped; the pixels stay "
        "exactly as they are. An address of a manifest that was packed, in any storage that fsspec reads, copies it "
        "and its shards; repeated, it copies what is missing. Research software, not a medical device.",
        epilog="examples: python -m data.pack runs/data/dermnet/train.jsonl --out-dir runs/packed/dermnet; "
        "python -m data.pack s3://bucket/packed/train.jsonl --out-dir runs/packed/train (s3:// needs the package "
        "s3fs, gs:// gcsfs; keys and servers are set as for those)",
    )
    parser.add_argument("manifest", help="JSONL, see data/README.md; or the address of a packed one")
    parser.add_argument(
        "--out-dir", required=True, type=Path, help="gets shards/000000.tar, ... and the manifest"
    )
    parser.add_argument(
        "--shard-size", type=parse_size, default="500MB", help="a shard is closed beyond it (default 500MB)"
    )
    args = parser.parse_args(argv)
    # After parsing, so that --help is instant.
    from data.preparing.shards import pack
    from data.preparing.staging import stage
    from skingpt4.records.manifest import read_manifest

    with reported() as status:
        if "://" in args.manifest:
            target = stage(args.manifest, args.out_dir)
        else:
            target = pack(Path(args.manifest), args.out_dir, args.shard_size)
        count = len(list((args.out_dir / "shards").glob("??????.tar")))
        print(f"{target}: {len(read_manifest(target))} records in {count} shards")
    return status.code


if __name__ == "__main__":
    sys.exit(main())
