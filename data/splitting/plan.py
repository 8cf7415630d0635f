"""Which split each record goes to, what would have leaked otherwise, and the files that say so.

Images that belong together (equal bytes, nearly equal images, one file, one case, one patient) form a cluster and
stay together; of equal bytes, and of one file, one record is used.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from tqdm import tqdm

from skingpt4.records.comparing import duplicates
from skingpt4.records.comparing.identity import Keys, require_compared
from skingpt4.records.manifest import Manifest, manifest_lines
from skingpt4.records.naming import Relative
from skingpt4.support.errors import UserError
from skingpt4.support.files import move_into_place, write_text

REPORT, REMOVED = "split_report.json", "removed.jsonl"


class SplitError(UserError):
    """Manifests or fractions that cannot be split; the message says which and why."""


@dataclass(frozen=True)
class Plan:
    """What becomes of each record.

    `split` (n,) is the number of its split, or -1 where the record is left out for `reason` (n,).
    """

    names: tuple[str, ...]
    split: np.ndarray
    reason: np.ndarray
    report: dict[str, Any]


def parse_fractions(text: str) -> dict[str, float]:
    """``train=0.8,test=0.2`` as a dict; the fractions are scaled to sum to 1.

    Raises:
        SplitError: a number that is not above 0, or a name that cannot be a file's.
    """
    fractions: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        try:
            fractions[name] = float(value)
        except ValueError:
            fractions[name] = -1.0
        if not name.isidentifier() or not 0 < fractions[name] < float("inf"):
            raise SplitError(f"--shares: {part!r} is not NAME=FRACTION; write for example train=0.8,test=0.2")
    total = sum(fractions.values())
    return {name: fraction / total for name, fraction in fractions.items()}


def plan(
    keys: Keys,
    fractions: dict[str, float],
    seed: int = 0,
    distance: int = duplicates.NEAR,
    excluded: Sequence[tuple[str, int]] = (),
    progress: bool = False,
) -> Plan:
    """Assign the records to splits.

    Args:
        keys: of all records; the last of them belong to evaluations and may be tied to no other.
        fractions: name and fraction of each split, summing to 1.
        seed: of the draw.
        distance: bits in which two perceptual hashes may differ and still mean the same image.
        excluded: name and number of records of each evaluation, see `keys`.
        progress: show a bar.

    Raises:
        IdentityError: no two records can be compared, or none with those of an evaluation.
    """
    count = len(keys) - sum(number for _, number in excluded)
    groups = [("the manifests", count), *((f"--exclude {name}", number) for name, number in excluded)]
    uncompared = require_compared(keys.content, groups)
    ties = duplicates.links(keys, distance, progress)
    cluster = duplicates.clusters(ties)
    ties = {kind: numbers[:count] for kind, numbers in ties.items()}
    held_out, cluster = cluster[count:], cluster[:count]
    reason = np.full(count, "", dtype=object)
    reason[duplicates.repeats(ties["file"])] = "the same file"
    reason[duplicates.repeats(ties["exact"])] = "equal bytes"
    reason[np.isin(cluster, held_out)] = "tied to a record of --exclude"

    classes = duplicates.codes(keys.records.column("class"))[:count]
    used = np.flatnonzero(reason == "")
    split = np.full(count, -1)
    split[used] = _deal(cluster[used], classes[used], np.array(list(fractions.values())), seed)
    rng = np.random.default_rng((seed, 1))
    naive = rng.choice(len(fractions), size=count, p=list(fractions.values()))
    report: dict[str, Any] = {
        "records": count,
        "kept": len(used),
        "left_out": dict(Counter(reason[reason != ""])),
        "known": {kind: int((numbers >= 0).sum()) for kind, numbers in ties.items()},
        "not_compared": uncompared,
        "clusters_of_more_than_one": int((np.bincount(cluster[used]) > 1).sum()) if len(used) else 0,
        "largest_cluster": int(np.bincount(cluster[used]).max()) if len(used) else 0,
        "equal_bytes_under_different_classes": _conflicts(ties["exact"], classes),
        "near_duplicate_distance_bits": distance,
        "seed": seed,
        "splits": {name: int((split == number).sum()) for number, name in enumerate(fractions)},
        "would_have_leaked": {"a random split of rows": leaks(ties, naive == 0)},
        "empty": _empty_splits(split[used], cluster[used], {k: v[used] for k, v in ties.items()}, fractions),
    }
    own_split = keys.records.column("split").combine_chunks().slice(0, count)
    if pc.any(pc.equal(own_split, "train")).as_py() and pc.any(pc.not_equal(own_split, "train")).as_py():
        in_train = pc.fill_null(pc.equal(own_split, "train"), False).to_numpy(zero_copy_only=False)
        report["would_have_leaked"]["the source's own split"] = leaks(ties, in_train)
    return Plan(tuple(fractions), split, reason, report)


def _empty_splits(
    split: np.ndarray, cluster: np.ndarray, ties: dict[str, np.ndarray], fractions: dict[str, float]
) -> str | None:
    """Which splits got no record, and why; None if all have some, or there are no records."""
    empty = [name for number, name in enumerate(fractions) if not (split == number).any()]
    if not empty or not len(split):
        return None
    total, largest = len(split), np.bincount(cluster).argmax()
    size = int((cluster == largest).sum())
    due = [fractions[name] * total for name in empty]
    shares = ", ".join(f"{fractions[name]:.0%} of {total} records for {name}" for name in empty)
    text = f"{' and '.join(empty)} would be empty ({shares})"
    if size == 1 or (min(due) < 1 and size < total / 2):
        return f"{text}: there are too few records; give other --shares"
    kinds = {
        kind: int((np.bincount(of[of >= 0])[of[of >= 0]] > 1).sum())
        for kind, of in ((kind, numbers[cluster == largest]) for kind, numbers in ties.items())
    }
    tied = ", ".join(f"{count} by {kind}" for kind, count in kinds.items() if count)
    return (
        f"{text}: one cluster holds {size} of {total} records ({size / total:.0%}; tied: {tied}) and cannot be "
        "divided; correct what ties them (an id such as 'unknown' is no patient), or give other --shares"
    )


def _deal(cluster: np.ndarray, classes: np.ndarray, fractions: np.ndarray, seed: int) -> np.ndarray:
    """Split numbers (n,): clusters in random order, those of one class (their first record's) cut at the fractions.

    scikit-learn's StratifiedGroupKFold knows only equal folds and took 3 ms per cluster, 50 minutes for a million.
    Where that leaves a split empty, because every class is small, the clusters are cut without regard to classes.
    """
    _, first, member, size = np.unique(cluster, return_index=True, return_inverse=True, return_counts=True)
    key = np.random.default_rng((seed, 0)).permutation(len(first))
    for strata in (classes[first], np.zeros(len(first))):
        order = np.lexsort((key, strata))
        result = np.empty(len(order), dtype=np.int64)
        for group in np.split(order, np.flatnonzero(np.diff(strata[order])) + 1):
            middle = np.cumsum(size[group]) - size[group] / 2
            result[group] = np.searchsorted(np.cumsum(fractions)[:-1] * size[group].sum(), middle)
        if len(np.unique(result)) == len(fractions):
            break
    return result[member]


def leaks(ties: dict[str, np.ndarray], in_train: np.ndarray) -> dict[str, int | None]:
    """How many records outside training are tied to one inside, by kind of tie and in total.

    A kind of which no record has a key is None: unknown, not zero.

    Args:
        ties: as `duplicates.links` gives them.
        in_train: (n,) bool.
    """
    outside = ~in_train
    counts: dict[str, int | None] = {"outside_training": int(outside.sum())}
    tied = np.zeros(len(in_train), dtype=bool)
    for kind, numbers in ties.items():
        shared = outside & (numbers >= 0) & np.isin(numbers, numbers[in_train & (numbers >= 0)])
        counts[kind] = int(shared.sum()) if (numbers >= 0).any() else None
        tied |= shared
    return {**counts, "any": int(tied.sum())}


def _conflicts(exact: np.ndarray, classes: np.ndarray) -> int:
    """Groups of equal bytes that have more than one class."""
    pairs = np.unique(np.stack([exact[exact >= 0], classes[exact >= 0]], axis=1), axis=0)
    return int((np.unique(pairs[:, 0], return_counts=True)[1] > 1).sum()) if len(pairs) else 0


def bare_names(records: Manifest) -> dict[str, int]:
    """What would have been lost had records been keyed on the bare file name, as the paper's Dermnet seems to be."""
    names = pc.binary_join_element_wise(records.column("image"), "", "").combine_chunks()
    bare = pc.replace_substring_regex(names, r"^.*/", "").dictionary_encode()
    numbers = bare.indices.to_numpy(zero_copy_only=False)
    classes = duplicates.codes(records.column("class"))
    repeated = np.bincount(numbers) > 1
    return {
        "distinct": len(bare.dictionary),
        "lost": len(records) - len(bare.dictionary),
        "repeated_under_different_classes": _conflicts(np.where(repeated[numbers], numbers, -1), classes),
    }


def write_splits(
    manifests: Sequence[Path], keys: Keys, result: Plan, out_dir: Path, progress: bool = False
) -> None:
    """Write one manifest per split, `removed.jsonl` and the report, each complete or not at all.

    Records get the hashes that they lacked.

    Raises:
        SplitError: the folder cannot be written.
    """
    files = [*(f"{name}.jsonl" for name in result.names), REMOVED]
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        parts = [out_dir / f".{name}.part" for name in files]
        with ExitStack() as stack:
            # The errors are bytes of file names that are not UTF-8; they become escapes of JSON.
            out = [
                stack.enter_context(part.open("w", encoding="utf-8", errors="backslashreplace"))
                for part in parts
            ]
            rows = tqdm(_rows(manifests), total=len(result.split), unit="record", disable=not progress)
            relative = Relative(out_dir)
            for place, (folder, row) in enumerate(rows):
                number, reason = result.split[place], result.reason[place]
                row |= keys.missing_hashes(place)
                row["image"] = relative.renamed(row["image"], folder)
                if number < 0:
                    row = {"image": row["image"], "reason": reason}
                else:
                    row["split"] = result.names[number]
                out[number].write(json.dumps(row, ensure_ascii=False) + "\n")  # -1 is removed.jsonl
        write_text(out_dir / REPORT, json.dumps(result.report, indent=1) + "\n")
        for part, name in zip(parts, files, strict=True):
            move_into_place(part, out_dir / name)
    except OSError as error:
        raise SplitError(f"{out_dir}: cannot be written ({error.strerror})") from None


def _rows(manifests: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in manifests:
        for _, line, _ in manifest_lines(path):
            yield path.parent, json.loads(line)


def describe(report: dict[str, Any]) -> str:
    """The report as text for the terminal."""
    lines = [f"{report['records']} records, {report['kept']} kept"]
    lines += [f"  left out: {n} ({reason})" for reason, n in report["left_out"].items()]
    lines += [f"  {name:12} {n:>8}" for name, n in report["splits"].items()]
    lines.append(
        f"{report['clusters_of_more_than_one']} clusters of images that belong together, the largest of "
        f"{report['largest_cluster']}; {report['equal_bytes_under_different_classes']} images are under "
        "more than one class"
    )
    known = ", ".join(f"{count} by {kind}" for kind, count in report["known"].items())
    lines.append(f"compared: {known}")
    lines += report["not_compared"]
    for name, leaked in report["would_have_leaked"].items():
        kinds = ", ".join(
            f"{kind} unknown" if leaked[kind] is None else f"{leaked[kind]} {kind}"
            for kind in ("exact", "near", "file", "case", "patient")
        )
        lines.append(f"leak of {name}: {leaked['any']} of {leaked['outside_training']} held out ({kinds})")
    bare = report["bare_file_names"]
    lines.append(
        f"keyed on the bare file name, {bare['lost']} records would have been lost; "
        f"{bare['repeated_under_different_classes']} of the repeated names are in different classes"
    )
    return "\n".join(lines)
