"""Collect all that a machine without network needs: skingpt4 bundle --out DIR.

DIR then holds the locked wheels for that machine, this software, weights, checkpoints, install.sh and SHA-256 sums of
all of it. Copy DIR there and run `sh install.sh`. An interrupted command continues when it is repeated.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from skingpt4.cli.deploy.collect import (
    ROOT,
    BundleError,
    Contents,
    arrived,
    collect,
    megabytes,
    refuse_links_out,
    tree_bytes,
)
from skingpt4.support.cli import make_parser
from skingpt4.support.errors import reported

EXAMPLES = """examples:
  skingpt4 bundle --out /media/usb/skingpt4 --dry-run
  skingpt4 bundle --out /media/usb/skingpt4 --checkpoint runs/quickstart/step2
  skingpt4 bundle --out /media/usb/skingpt4 --python 3.12 --torch-index URL

docs/deploy.md has the steps on the other machine."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = make_parser(
        "Collect all that a machine without network needs to install and run this.", EXAMPLES
    )
    add = result.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="the bundle's folder, e.g. on a USB disk")
    add("--python", default=".".join(platform.python_version_tuple()[:2]), metavar="3.N",
        help="the other machine's Python (default: this one's, %(default)s)")  # fmt: skip
    add("--machine", choices=("x86_64", "aarch64"), default="x86_64",
        help="the other machine's processor; its system is Linux (default: %(default)s)")  # fmt: skip
    add("--extras", nargs="*", default=["serve", "clinic"], metavar="NAME",
        help="of pyproject.toml (default: serve clinic)")  # fmt: skip
    add("--torch-index", metavar="URL",
        help="take torch and torchvision from here, e.g. builds without CUDA (default: the lock's, for "
        "NVIDIA GPUs)")  # fmt: skip
    add("--weights", nargs="*", default=["tiny"], metavar="NAME",
        help="from `skingpt4 weights list`; they must be present (default: tiny)")  # fmt: skip
    add("--weights-dir", type=Path, default=Path("weights"), help="default: %(default)s")
    add("--checkpoint", type=Path, action="append", default=[], metavar="DIR",
        help="a checkpoint or a run's folder, which becomes models/NAME; may be given several times")  # fmt: skip
    add("--dry-run", action="store_true", help="only say what the bundle would hold, and how much")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Say the size, check the space, then collect; returns the exit status."""
    args = parser().parse_args(argv)
    with reported() as status:
        if importlib.util.find_spec("pip") is None:
            raise BundleError(f"{sys.executable} has no pip; run `python -m ensurepip`")
        from skingpt4.cli.deploy.locked import TORCH, Target, needed, read_lock, requirements_of

        target = Target(_python(args.python), args.machine)
        lock = read_lock(ROOT / "requirements.lock", target)
        required = requirements_of(ROOT, args.extras)
        names = needed(lock, required, target, gpu=args.torch_index is None)
        own_torch = TORCH if args.torch_index else ()
        alone = read_lock(
            ROOT / "requirements-lavis.txt", target
        ).values()  # installed without what it requires
        contents = Contents(
            args.out, target, [*(lock[name] for name in names if name not in own_torch), *alone],
            [lock[name] for name in names if name in own_torch], args.torch_index,
            _trees(args.weights, args.weights_dir, args.checkpoint),
        )  # fmt: skip
        num_bytes = announce(contents)
        if not args.dry_run:
            collect(contents, num_bytes)
    return status.code


def _python(version: str) -> str:
    major, _, minor = version.partition(".")
    if major != "3" or not minor.isdecimal() or int(minor) < 11:
        raise BundleError(f"--python {version!r}: give 3.11 or a newer one, as 3.N")
    return version


def _trees(weights: Sequence[str], weights_dir: Path, checkpoints: Sequence[Path]) -> dict[str, Path]:
    """The folders of weights and checkpoints, by their places in the bundle.

    Raises:
        UserError: one is missing, two have the same name, or a checkpoint holds links that lead out of it.
    """
    from skingpt4.weights.fetch.catalogue import catalogue
    from skingpt4.weights.fetch.store import PRESENT, WeightsError, how_to_fetch, state, target

    trees: dict[str, Path] = {}
    for name in catalogue().expand(weights):
        path = target(catalogue()[name], weights_dir)
        if state(catalogue()[name], weights_dir) not in PRESENT or path is None:
            raise WeightsError(f"{name} is not in {weights_dir}; {how_to_fetch(name, weights_dir)}")
        trees[f"weights/{path.name}"] = path
    for checkpoint in checkpoints:
        place = f"models/{checkpoint.resolve().name}"
        if not checkpoint.is_dir():
            raise BundleError(f"--checkpoint {checkpoint}: no such folder")
        if place in trees:
            raise BundleError(f"--checkpoint {checkpoint}: another one has the same name; rename one of them")
        refuse_links_out(checkpoint)
        trees[place] = checkpoint
    return trees


def announce(contents: Contents) -> int:
    """Say what the bundle holds and how much of it is still to come, and check that there is room.

    Returns:
        The bytes of its wheels, as far as they are known.

    Raises:
        DownloadError: the disk has too little room.
    """
    import httpx
    from tqdm import tqdm

    from skingpt4.cli.deploy.locked import TIMEOUT_SECONDS, index_url, wheel_bytes
    from skingpt4.weights.fetch.download import require_space

    there = arrived(contents)
    missing = [package for package in contents.packages if package.name not in there]
    index = index_url()
    with httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=True) as client:
        bar = tqdm(missing, desc="asking for sizes", unit=" packages", leave=False)
        sizes = [wheel_bytes(package, contents.target, client, index) for package in bar]
    wheels = sum(size or 0 for size in sizes)
    unknown = sizes.count(None) + len(contents.torch)
    trees = {place: tree_bytes(path) for place, path in contents.trees.items()}
    old = sum(path.stat().st_size for path in contents.out.glob("wheels/*.whl"))
    target = contents.target
    print(f"for Linux on {target.machine} with Python {target.python}")
    print(f"  {len(contents.packages) + len(contents.torch)} packages, {len(missing)} still to be downloaded: "
          f"{megabytes(wheels)}{f' and {unknown} of unknown size' if unknown else ''}")  # fmt: skip
    for place, num_bytes in trees.items():
        print(f"  {place}: {megabytes(num_bytes)}")
    print(f"  together {megabytes(old + wheels + sum(trees.values()))} in {contents.out}", flush=True)
    new = {place: size for place, size in trees.items() if not (contents.out / place).exists()}
    require_space(contents.out, wheels + sum(new.values()), "the rest of the bundle")
    return old + wheels


if __name__ == "__main__":
    sys.exit(main())
