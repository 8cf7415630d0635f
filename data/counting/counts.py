"""Counts of concepts, classes, sources, splits and skin types: of manifests, or of the sources' bare tables."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from data.reading.rows import RowError, SourceError
from data.reading.tables import Table
from data.sources.public.skincon import FLAG, HALVES, is_set
from skingpt4.records.manifest import Manifest, read_manifest
from skingpt4.records.schema import SKIN_TYPES
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS, OTHERS, UnknownName, dermnet_folder

UNKNOWN = "unknown"
DIMENSIONS = ("concept", "class", "source", "split", "fitzpatrick")
SKIN_ORDER = tuple(map(str, SKIN_TYPES))


@dataclass
class Counts:
    """How often each value occurs, by source: `of[dimension][(source, value)]`.

    `records` counts the records of each source, `with_concepts` those whose concepts are known, `facts` holds what
    else a table shows (by source and name), `classes_of_split` the classes by (source, split, class).
    """

    of: dict[str, Counter[tuple[str, str]]] = field(
        default_factory=lambda: {name: Counter() for name in DIMENSIONS}
    )
    records: Counter[str] = field(default_factory=Counter)
    with_concepts: Counter[str] = field(default_factory=Counter)
    classes_of_split: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    facts: dict[tuple[str, str], int] = field(default_factory=dict)

    def total(self, dimension: str, source: str | None = None) -> dict[str, int]:
        """Value to count, over all sources or one, in the order of the vocabulary or else by count."""
        counts: Counter[str] = Counter()
        for (where, value), count in self.of[dimension].items():
            if source in (None, where):
                counts[value] += count
        if dimension in ("concept", "class"):
            # The closed vocabularies are shown completely, so that missing names are visible.
            names = CONCEPTS if dimension == "concept" else (*CLASSES, OTHERS)
            rest = [name for name in counts if name not in names]
            return {name: counts[name] for name in (*names, *rest)} if counts else {}
        if dimension == "fitzpatrick":
            return {name: counts[name] for name in (*SKIN_ORDER, UNKNOWN) if counts[name]}
        return dict(sorted(counts.items(), key=lambda item: (item[0] == UNKNOWN, -item[1], item[0])))


# --- manifests -----------------------------------------------------------------------------------------


def count_manifests(paths: Sequence[str | Path]) -> Counts:
    """Count the records of manifests, column by column in batches, so that memory stays flat.

    Raises:
        RecordError: a manifest is missing, empty, or has a row that is not a record.
    """
    counts = Counts()
    for path in paths:
        _add_manifest(counts, read_manifest(path), str(path))
    return counts


def _add_manifest(counts: Counts, records: Manifest, name: str) -> None:
    keys = ("source", "split", "class", "fitzpatrick", "concepts")
    columns = {key: records.column(key).chunks for key in keys}
    bar = tqdm(total=len(records), desc=f"counting {name}", unit="record", disable=len(records) < 100_000)
    with bar:
        for batch in zip(*(columns[key] for key in keys), strict=True):
            _add_batch(counts, dict(zip(keys, batch, strict=True)))
            bar.update(len(batch[0]))


def _texts(column: pa.Array) -> pa.Array:
    return pc.fill_null(column.cast(pa.string()), UNKNOWN)


def _group(**columns: pa.Array) -> Iterator[tuple[tuple[str, ...], int]]:
    """Combinations of values with their counts."""
    names = list(columns)
    for row in pa.table(columns).group_by(names).aggregate([([], "count_all")]).to_pylist():
        yield tuple(row[name] for name in names), row["count_all"]


def _add_batch(counts: Counts, batch: dict[str, pa.Array]) -> None:
    texts = {key: _texts(batch[key]) for key in ("source", "split", "class", "fitzpatrick")}
    for (source,), count in _group(source=texts["source"]):
        counts.records[source] += count
        counts.of["source"][source, source] += count
    for dimension in ("split", "class", "fitzpatrick"):
        for (source, value), count in _group(source=texts["source"], value=texts[dimension]):
            counts.of[dimension][source, value] += count
    grouped = _group(source=texts["source"], split=texts["split"], value=texts["class"])
    for (source, split, value), count in grouped:
        counts.classes_of_split[source, split, value] += count
    concepts = batch["concepts"]
    for (source,), count in _group(source=texts["source"].filter(concepts.is_valid())):
        counts.with_concepts[source] += count
    owners = pc.take(texts["source"], pc.list_parent_indices(concepts))
    for (source, value), count in _group(source=owners, value=pc.list_flatten(concepts)):
        counts.of["concept"][source, value] += count


# --- the bare tables -----------------------------------------------------------------------------------


def count_annotations(paths: Sequence[str | Path]) -> Counts:
    """Count SKINCON's annotation files, either release, without images.

    Rows that SKINCON flags are not counted; `facts` holds their number and the number of all rows.

    Raises:
        SourceError: a file with another header, an image name of neither half, or a value that is not 0 or 1.
    """
    counts = Counts()
    for path in paths:
        table = Table(path)
        table.need(["ImageID", *CONCEPTS])
        rows = flagged = named = 0
        source = ""
        for number, row in table:
            where = f"{table.path}, row {number}"
            if isinstance(row, str):
                raise SourceError(f"{where}: {row}")
            source = _half(row["ImageID"], where, source)
            rows += 1
            if FLAG in row and _value(row, FLAG, where):
                flagged += 1
                continue
            counts.records[source] += 1
            counts.with_concepts[source] += 1
            counts.of["source"][source, source] += 1
            for concept in CONCEPTS:
                if _value(row, concept, where):
                    counts.of["concept"][source, concept] += 1
                    named += 1
        if not rows:
            raise SourceError(f"{table.path}: has a header but no rows")
        for name, value in (("rows", rows), ("flagged", flagged), ("concepts", named)):
            counts.facts[source, name] = counts.facts.get((source, name), 0) + value
    return counts


def _half(image: Any, where: str, before: str) -> str:
    source = next((half.source for half in HALVES.values() if half.name.fullmatch(str(image))), None)
    if source is None:
        examples = " or ".join(half.example for half in HALVES.values())
        raise SourceError(f"{where}: 'ImageID' is {image!r}; SKINCON's pictures are called like {examples}")
    if before and source != before:
        raise SourceError(f"{where}: a picture of {source} in a file that begins with {before}")
    return source


def _value(row: dict[str, Any], column: str, where: str) -> bool:
    try:
        return is_set(row, column)
    except RowError as error:
        raise SourceError(f"{where}: {error}") from None


def count_file_list(path: str | Path) -> Counts:
    """Count a list of Dermnet's files (CSV with `split,folder,filename`), without images.

    `facts` holds how many distinct bare names there are, and how many of the repeated ones are in folders of
    different classes, and in both splits.

    Raises:
        SourceError: another header, or an unknown folder or split (with the nearest known name).
    """
    table = Table(path)
    table.need(["split", "folder", "filename"])
    counts, names = Counts(), dict[str, list[tuple[str, str]]]()
    for number, row in table:
        where = f"{table.path}, row {number}"
        if isinstance(row, str):
            raise SourceError(f"{where}: {row}")
        try:
            folder = dermnet_folder(row["folder"])
        except UnknownName as error:
            raise SourceError(f"{where}: {error}") from None
        if row["split"] not in ("train", "test"):
            raise SourceError(f"{where}: 'split' is {row['split']!r}; expected train or test")
        split, class_name = row["split"], folder.class_name or UNKNOWN
        counts.records["dermnet"] += 1
        counts.of["source"]["dermnet", "dermnet"] += 1
        counts.of["split"]["dermnet", split] += 1
        counts.of["class"]["dermnet", class_name] += 1
        counts.classes_of_split["dermnet", split, class_name] += 1
        names.setdefault(re.sub(r".*[/\\]", "", row["filename"]), []).append((split, folder.name))
    if not names:
        raise SourceError(f"{table.path}: has a header but no rows")
    counts.facts |= _repeats(names)
    return counts


def _repeats(names: dict[str, list[tuple[str, str]]]) -> dict[tuple[str, str], int]:
    """What keying on the bare name would lose, since a repeated name is not one image."""
    repeated = [places for places in names.values() if len(places) > 1]

    def different(places: list[tuple[str, str]]) -> bool:
        # A folder without a class is a group of its own.
        return len({dermnet_folder(folder).class_name or folder for _, folder in places}) > 1

    files = sum(map(len, names.values()))
    facts = {
        "files": files,
        "distinct bare names": len(names),
        "files lost if keyed on the bare name": files - len(names),
        "repeated names": len(repeated),
        "repeated names in folders of different classes": sum(map(different, repeated)),
        "names in both train and test": sum(len({split for split, _ in places}) > 1 for places in repeated),
    }
    return {("dermnet", name): value for name, value in facts.items()}
