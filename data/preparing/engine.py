"""Rows of a source and their images become a manifest: streamed, on all cores, resumable, all or nothing."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.preparing.files import complete_file, write_line
from data.preparing.images import ImageMeasures, MeasureCache, Measurer, PreparationError
from data.reading.rows import Candidate, Refusal, Rows
from data.reading.tables import DiskMap
from skingpt4.records.images import REMARKS
from skingpt4.records.naming import Relative
from skingpt4.records.record import RecordError, check_row
from skingpt4.records.schema import KEYS

MANIFEST, REJECTED, CACHE = "all.jsonl", "rejected.jsonl", ".pictures.sqlite"
SERIAL_BELOW = 200  # starting a pool costs more than reading so few images
MAX_NAMES = 10_000  # diseases, and licences, that are counted one by one


@dataclass
class Summary:
    """What became of the rows.

    `refused`, `remarks`, `unclassed` (disease names without a class among the records) and `licences` count;
    `folders` are the class folders that gave a record; `duplicates` are records with the bytes of an earlier one;
    `measured` images were decoded, the others were cached.
    """

    records: int = 0
    duplicates: int = 0
    measured: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    unclassed: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    folders: set[str] = field(default_factory=set)

    def add(self, record: dict[str, Any], row: Candidate) -> None:
        """Count a record."""
        self.records += 1
        self.remarks.update(row.remarks)
        if row.folder is not None:
            self.folders.add(row.folder)
        if record["disease"] and record["class"] is None:
            _count(self.unclassed, record["disease"])
        if record["licence"]:
            _count(self.licences, record["licence"])


def _count(counter: Counter[str], name: str) -> None:
    """Count a name, of the first MAX_NAMES one by one."""
    counter[name if name in counter or len(counter) < MAX_NAMES else "(more names)"] += 1


def build_record(row: Candidate, measures: ImageMeasures, image: str) -> dict[str, Any] | Refusal:
    """The record of a usable image, checked as training will check it, or the refusal."""
    if measures.reason is not None:
        return Refusal(row.file, row.row, image, measures.reason, measures.detail or "")
    values = {key: getattr(measures, key) for key in ("sha256", "phash", "width", "height")}
    # Sources have no pairs of rated answers; without the key, manifests of earlier versions keep their bytes.
    record = {key: None for key in KEYS if key != "rejected"} | {"image": image, **values} | row.fields
    try:
        check_row(record, "the row")
        json.dumps({**record, "image": ""}, ensure_ascii=False).encode("utf-8")
    except RecordError as error:
        return Refusal(row.file, row.row, image, "bad_value", str(error).removeprefix("the row: "))
    except UnicodeEncodeError:
        return Refusal(row.file, row.row, image, "bad_value", "holds a character that is not Unicode text")
    return record


def results(
    rows: Rows, limit: int | None, measurer: Measurer, relative: Relative, progress: bool
) -> Iterator[tuple[Candidate | Refusal, dict[str, Any] | Refusal]]:
    """Every row with its record or refusal, in the rows' order, behind a progress bar."""
    total = rows.total if limit is None else min(limit, rows.total)
    measured = measurer(
        itertools.islice(rows.rows, limit),
        lambda row: row.image_path if isinstance(row, Candidate) else None,
        relative,
    )
    for row, measures in tqdm(measured, total=total, unit="row", smoothing=0.05, disable=not progress):
        if isinstance(row, Refusal):
            yield row, row
        elif measures is not None:
            record = build_record(row, measures, relative(row.image_path))
            known = (REMARKS[key] for key in (measures.detail or "").split() if measures.reason is None)
            yield replace(row, remarks=(*row.remarks, *known)), record


def write_manifest(
    rows: Rows,
    out_dir: Path,
    workers: int,
    limit: int | None = None,
    fresh: bool = False,
    progress: bool = True,
) -> Summary:
    """Write `all.jsonl` and `rejected.jsonl` into a folder, both complete or not at all.

    A run that was stopped, even by a kill, goes on where it was when it is started again, because measures are
    cached; a second run measures nothing and writes the same bytes. If no row becomes a record, an existing manifest
    stays as it was.

    Args:
        rows: read once, as a stream.
        out_dir: created if it does not exist.
        workers: processes that read and hash images.
        limit: only so many rows, from the first.
        fresh: forget the cached measures.
        progress: show a bar on stderr.

    Raises:
        PreparationError: the folder cannot be written, or a worker was killed.
        SourceError: the source turns out to be unreadable further down.
    """
    summary, relative = Summary(), Relative(out_dir)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            cache = stack.enter_context(closing(MeasureCache(out_dir / CACHE)))
            if fresh:
                cache.clear()
            serial = (rows.total if limit is None else min(limit, rows.total)) < SERIAL_BELOW
            measurer = stack.enter_context(closing(Measurer(cache, 1 if serial else workers)))
            contents = DiskMap()
            with (
                complete_file(out_dir / REJECTED) as rejected,
                suppress(_NoRecords),
                complete_file(out_dir / MANIFEST) as manifest,
            ):
                for row, result in results(rows, limit, measurer, relative, progress):
                    if isinstance(result, Refusal):
                        summary.refused[result.reason] += 1
                        write_line(rejected, asdict(result))
                        continue
                    if isinstance(row, Candidate):
                        summary.add(result, row)
                    summary.duplicates += not contents.add(result["sha256"])
                    write_line(manifest, result)
                if not summary.records:
                    raise _NoRecords
            summary.measured = measurer.num_measured
    except OSError as error:
        where = error.filename or out_dir
        raise PreparationError(
            f"{where}: cannot be written ({error.strerror}); the manifest is as it was"
        ) from None
    return summary


class _NoRecords(Exception):
    """Leaves the manifest as it was."""
