"""Split manifests into train, validation and test so that nothing is in two of them.

    python -m data.split runs/data/dermnet/all.jsonl --out-dir runs/data/dermnet

Pictures that belong together (equal bytes, nearly equal pictures, one case, one patient) stay together; of equal
bytes one record is kept. Whole clusters are dealt out by chance, class by class, so every split has the classes in
nearly the same shares. The report says what would have leaked if rows had been dealt out one by one, and under the
source's own split.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image, ImageDraw, ImageOps
from tqdm import tqdm

from data import split as pair_sheet
from skingpt4.records import duplicates
from skingpt4.records.images import open_image
from skingpt4.records.manifest import Manifest, chain, manifest_lines, read_manifest
from skingpt4.support.errors import UserError, reported
from skingpt4.support.files import write_text

SIDE, COLUMNS, PAIRS = 160, 4, 24
_GAP, _CAPTION = 12, 18

DEFAULT_SHARES = "train=0.8,validation=0.1,test=0.1"
REPORT, REMOVED = "split_report.json", "removed.jsonl"


class SplitError(UserError):
    """Manifests or shares that cannot be split; the message says which and why."""


@dataclass(frozen=True)
class Plan:
    """What becomes of each record.

    `split` (n,) is the number of its split, or -1 where the record is left out for `reason` (n,).
    """

    names: tuple[str, ...]
    split: np.ndarray
    reason: np.ndarray
    report: dict[str, Any]


def parse_shares(text: str) -> dict[str, float]:
    """``train=0.8,test=0.2`` as a dict; the shares are made to sum to 1.

    Raises:
        SplitError: no number above 0, or a name that cannot be a file's.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        try:
            shares[name] = float(value)
        except ValueError:
            shares[name] = -1.0
        if not name.isidentifier() or not 0 < shares[name] < float("inf"):
            raise SplitError(f"--shares: {part!r} is no share; write for example {DEFAULT_SHARES}")
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


def plan(
    records: Manifest,
    shares: dict[str, float],
    seed: int = 0,
    distance: int = duplicates.NEAR,
    num_excluded: int = 0,
    progress: bool = False,
) -> Plan:
    """Deal the records out.

    Args:
        records: all records; the last `num_excluded` belong to an evaluation and may be tied to no other.
        shares: name and share of each split, summing to 1.
        seed: of the draw.
        distance: bits in which two perceptual hashes may differ and still mean the same picture.
        num_excluded: see `records`.
        progress: show a bar.
    """
    ties = duplicates.links(records, distance, progress)
    cluster = duplicates.clusters(ties)
    count = len(records) - num_excluded
    reason = np.full(count, "", dtype=object)
    exact = ties["exact"][:count]
    first = np.full(exact.max(initial=-1) + 1, count)
    np.minimum.at(first, exact[exact >= 0], np.flatnonzero(exact >= 0))
    repeated = (exact >= 0) & (np.arange(count) != first[exact])
    reason[repeated] = "equal bytes"
    held = np.isin(cluster[:count], cluster[count:])
    reason[held] = "tied to a record of --exclude"

    classes = duplicates.codes(records, "class")[:count]
    kept = np.flatnonzero(reason == "")
    split = np.full(count, -1)
    split[kept] = _deal(cluster[kept], classes[kept], np.array(list(shares.values())), seed)
    rng = np.random.default_rng((seed, 1))
    naive = rng.choice(len(shares), size=count, p=list(shares.values()))
    report: dict[str, Any] = {
        "records": count,
        "kept": len(kept),
        "left_out": dict(Counter(reason[reason != ""])),
        "clusters_of_more_than_one": int((np.bincount(cluster[kept]) > 1).sum()) if len(kept) else 0,
        "largest_cluster": int(np.bincount(cluster[kept]).max()) if len(kept) else 0,
        "equal_bytes_under_different_classes": _conflicts(exact, classes),
        "near_duplicate_distance_bits": distance,
        "seed": seed,
        "splits": {name: int((split == number).sum()) for number, name in enumerate(shares)},
        "would_have_leaked": {
            "rows dealt out one by one": leaks({k: v[:count] for k, v in ties.items()}, naive == 0),
        },
    }
    own = records.column("split").combine_chunks().slice(0, count)
    if pc.any(pc.equal(own, "train")).as_py() and pc.any(pc.not_equal(own, "train")).as_py():
        in_train = pc.fill_null(pc.equal(own, "train"), False).to_numpy(zero_copy_only=False)
        report["would_have_leaked"]["the source's own split"] = leaks(
            {k: v[:count] for k, v in ties.items()}, in_train
        )
    return Plan(tuple(shares), split, reason, report)


def _deal(cluster: np.ndarray, classes: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """Split numbers (n,): clusters in random order, those of one class (their first record's) cut at the shares.

    scikit-learn's StratifiedGroupKFold knows only equal folds and took 3 ms a cluster: most of an hour for a million.
    """
    _, first, member, size = np.unique(cluster, return_index=True, return_inverse=True, return_counts=True)
    key = np.random.default_rng((seed, 0)).permutation(len(first))
    order = np.lexsort((key, classes[first]))
    stratum = classes[first][order]
    result = np.empty(len(order), dtype=np.int64)
    for group in np.split(order, np.flatnonzero(np.diff(stratum)) + 1):
        middle = np.cumsum(size[group]) - size[group] / 2
        result[group] = np.searchsorted(np.cumsum(shares)[:-1] * size[group].sum(), middle)
    return result[member]


def leaks(ties: dict[str, np.ndarray], in_train: np.ndarray) -> dict[str, int]:
    """How many records outside training are tied to one inside, by kind of tie and in any way.

    Args:
        ties: as `duplicates.links` gives them.
        in_train: (n,) bool.
    """
    outside = ~in_train
    counts = {"outside_training": int(outside.sum())}
    tied = np.zeros(len(in_train), dtype=bool)
    for kind, numbers in ties.items():
        shared = outside & (numbers >= 0) & np.isin(numbers, numbers[in_train & (numbers >= 0)])
        counts[kind] = int(shared.sum())
        tied |= shared
    return {**counts, "any": int(tied.sum())}


def _conflicts(exact: np.ndarray, classes: np.ndarray) -> int:
    """Groups of equal bytes that stand under more than one class."""
    pairs = np.unique(np.stack([exact[exact >= 0], classes[exact >= 0]], axis=1), axis=0)
    return int((np.unique(pairs[:, 0], return_counts=True)[1] > 1).sum()) if len(pairs) else 0


def bare_names(records: Manifest) -> dict[str, int]:
    """What would have vanished had records been keyed on the bare file name, as the paper's Dermnet seems to be."""
    names = pc.binary_join_element_wise(records.column("image"), "", "").combine_chunks()
    bare = pc.replace_substring_regex(names, r"^.*/", "").dictionary_encode()
    numbers = bare.indices.to_numpy(zero_copy_only=False)
    classes = duplicates.codes(records, "class")
    repeated = np.bincount(numbers) > 1
    return {
        "distinct": len(bare.dictionary),
        "lost": len(records) - len(bare.dictionary),
        "repeated_under_different_classes": _conflicts(np.where(repeated[numbers], numbers, -1), classes),
    }


def write(manifests: Sequence[Path], result: Plan, out_dir: Path, progress: bool = False) -> None:
    """Write one manifest a split, `removed.jsonl` and the report, each whole or not at all.

    Raises:
        SplitError: the folder cannot be written.
    """
    files = [*(f"{name}.jsonl" for name in result.names), REMOVED]
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        parts = [out_dir / f".{name}.part" for name in files]
        with ExitStack() as stack:
            out = [stack.enter_context(part.open("w", encoding="utf-8")) for part in parts]
            rows = tqdm(
                _rows(manifests, out_dir), total=len(result.split), unit="record", disable=not progress
            )
            for (folder, row), number, reason in zip(rows, result.split, result.reason, strict=True):
                row["image"] = os.path.normpath(os.path.join(folder, row["image"]))
                if number < 0:
                    row = {"image": row["image"], "reason": reason}
                else:
                    row["split"] = result.names[number]
                out[number].write(json.dumps(row, ensure_ascii=False) + "\n")  # -1 is removed.jsonl
        write_text(out_dir / REPORT, json.dumps(result.report, indent=1) + "\n")
        for part, name in zip(parts, files, strict=True):
            os.replace(part, out_dir / name)
    except OSError as error:
        raise SplitError(f"{out_dir}: cannot be written ({error.strerror})") from None


def _rows(manifests: Sequence[Path], out_dir: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in manifests:
        folder = os.path.relpath(path.parent, out_dir)
        for _, line, _ in manifest_lines(path):
            yield folder, json.loads(line)


def show(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"{report['records']} records, {report['kept']} kept"]
    lines += [f"  left out: {n} ({reason})" for reason, n in report["left_out"].items()]
    lines += [f"  {name:12} {n:>8}" for name, n in report["splits"].items()]
    lines.append(
        f"{report['clusters_of_more_than_one']} clusters of pictures that belong together, the largest of "
        f"{report['largest_cluster']}; {report['equal_bytes_under_different_classes']} pictures stand under "
        "more than one class"
    )
    for name, leaked in report["would_have_leaked"].items():
        kinds = ", ".join(f"{leaked[kind]} {kind}" for kind in ("exact", "near", "case", "patient"))
        lines.append(f"leak of {name}: {leaked['any']} of {leaked['outside_training']} held out ({kinds})")
    bare = report["bare_file_names"]
    lines.append(
        f"keyed on the bare file name {bare['lost']} records would have vanished; "
        f"{bare['repeated_under_different_classes']} of the repeated names stand in different classes"
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data.split", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("manifests", nargs="+", type=Path, metavar="MANIFEST")
    parser.add_argument("--out-dir", type=Path, required=True, help="takes NAME.jsonl for each share")
    parser.add_argument("--shares", default=DEFAULT_SHARES, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--near", type=int, default=duplicates.NEAR, metavar="BITS",
        help="perceptual hashes that differ in at most BITS mean one picture (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--exclude", action="append", type=Path, default=[], metavar="MANIFEST",
        help="an evaluation: whatever is tied to one of its records is left out",
    )  # fmt: skip
    parser.add_argument(
        "--pairs", type=Path, metavar="PICTURE",
        help="draw the nearly equal pairs that differ most, to judge --near by eye",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the report, write nothing")
    args = parser.parse_args(argv)
    with reported() as status:
        shares = parse_shares(args.shares)
        if not 0 <= args.near < duplicates.HASH_BITS:
            raise SplitError(f"--near: {args.near} is no number of bits from 0 to {duplicates.HASH_BITS - 1}")
        targets = {(args.out_dir / f"{name}.jsonl").resolve() for name in shares}
        overwritten = [p for p in (*args.manifests, *args.exclude) if p.resolve() in targets]
        if overwritten:
            raise SplitError(f"{overwritten[0]} would be overwritten; choose another --out-dir or --shares")
        training = chain(read_manifest(path) for path in args.manifests)
        held = chain(read_manifest(path) for path in args.exclude)
        if args.pairs:
            pair_sheet.draw(training, args.near, args.pairs)
        result = plan(training + held, shares, args.seed, args.near, len(held), progress=True)
        result.report["bare_file_names"] = bare_names(training)
        result.report["manifests"] = [str(path) for path in args.manifests]
        print(show(result.report))
        if not result.report["kept"]:
            raise SplitError("nothing is left to split; see the reasons above")
        if not args.dry_run:
            write(args.manifests, result, args.out_dir, progress=True)
            print(f"written to {args.out_dir}; the whole report is {args.out_dir / REPORT}")
    return status.code


def draw(records: Manifest, distance: int, path: Path) -> None:
    """Draw the PAIRS pairs that differ in the most bits (the doubtful ones), the farthest first.

    Raises:
        ImageError: a picture of a pair cannot be opened.
        OSError: the file cannot be written.
    """
    hashes, places = duplicates.perceptual_hashes(records)
    pairs = duplicates.near_pairs(hashes, distance)
    if not len(pairs):
        print(f"no pair of different hashes within {distance} bits; no picture is drawn")
        return
    bits = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
    chosen = np.argsort(-bits.astype(int), kind="stable")[:PAIRS]
    record_of = np.full(len(hashes), -1)
    record_of[places[places >= 0]] = np.flatnonzero(places >= 0)
    width, height = 2 * SIDE + _GAP, SIDE + _CAPTION + _GAP
    sheet = Image.new("RGB", (COLUMNS * width + _GAP, -(-len(chosen) // COLUMNS) * height + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for number, pair in enumerate(chosen):
        left, top = _GAP + number % COLUMNS * width, _GAP + number // COLUMNS * height
        for side, row in enumerate(record_of[pairs[pair]]):
            picture = ImageOps.pad(open_image(records.image_path(int(row))), (SIDE, SIDE), color="white")
            sheet.paste(picture, (left + side * SIDE, top))
        pen.text((left, top + SIDE + 2), f"{bits[pair]} bits", fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    print(f"{len(pairs)} pairs within {distance} bits; the {len(chosen)} farthest are drawn in {path}")


if __name__ == "__main__":
    raise SystemExit(main())
