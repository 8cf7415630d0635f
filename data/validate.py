"""Check manifests line by line: python -m data.validate MANIFEST... [--check-images] [--config CONFIG] [--json]."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from skingpt4.support.errors import reported


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0 only if every row of every manifest can be used."""
    parser = argparse.ArgumentParser(
        prog="python -m data.validate",
        description="Check manifests and name every bad row. Research software, not a medical device.",
        epilog="example: python -m data.validate runs/data/train.jsonl --check-images --config configs/paper/"
        "step2_vicuna13b.yaml",
    )
    parser.add_argument(
        "manifests", nargs="+", type=Path, metavar="MANIFEST", help="JSONL, see data/README.md"
    )
    parser.add_argument(
        "--check-images", action="store_true", help="open every picture; compare hash and size"
    )
    parser.add_argument("--config", help="build the answers of this training step and count what they teach")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a change to the config"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that open pictures (default: one per core)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    args = parser.parse_args(argv)
    # After parsing, so that --help is instant.
    from data.preparing.validation import Checked, check, compare, describe, load_encoder
    from skingpt4.records.record import RecordError
    from skingpt4.support.threads import num_cores

    workers = num_cores() if args.workers is None else max(1, args.workers)
    with reported() as status:
        encoder = load_encoder(args.config, args.set) if args.config else None
        results = []
        for path in args.manifests:
            try:
                results.append(check(path, args.check_images, encoder, workers))
            except RecordError as error:
                results.append(Checked(str(path), stopped_by=str(error).removeprefix(f"{path}: ")))
        compare(results)
        ok = all(checked.ok for checked in results)
        if args.json:
            rows = [asdict(checked) | {"ok": checked.ok} for checked in results]
            print(json.dumps({"ok": ok, "manifests": rows}, ensure_ascii=False))
        else:
            print("\n".join(map(describe, results)))
        status.code = 0 if ok else 1
    return status.code


if __name__ == "__main__":
    sys.exit(main())
