"""Manifests checked line by line: every bad row with its line and the reason.

With the encoder of a training step its answers are built and tokenised too, so that a run with nothing to learn is
noticed before it starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.preparing.images import ImageMeasures, MeasureCache, Measurer
from skingpt4.records.comparing import duplicates
from skingpt4.records.comparing.identity import KINDS, PICTURE, Keys, not_compared
from skingpt4.records.comparing.overlap import find_overlaps
from skingpt4.records.manifest import manifest_lines, read_manifest
from skingpt4.records.naming import image_path
from skingpt4.records.record import RecordError, parse_line, record_of
from skingpt4.training.samples import SampleEncoder, answer_for

MAX_SHOWN = 200  # characters of a text in a message


@dataclass
class BadRow:
    """A row that cannot be used: its line in the file (from 1), the kind of problem, and the sentence."""

    line: int
    kind: str  # "record", "image", "supervision"
    reason: str


@dataclass
class Checked:
    """The result for one manifest.

    `answers` counts the good records with an answer under the configuration, `supervised_tokens` the tokens of these
    answers that are learned, `with_marks` the records whose texts hold marks of the prompt, and `marks` lists these;
    all are None or empty without a configuration. `stopped_by` says why a training would stop. `remarks` say which
    records repeat others, and which could not be compared; see `compare`.
    """

    path: str
    good: int = 0
    bad: list[BadRow] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)  # records that have each key
    blanks: dict[str, int] = field(default_factory=dict)  # records with a word for nothing under each key
    answers: int | None = None
    supervised_tokens: int | None = None
    with_marks: int | None = None
    marks: list[str] = field(default_factory=list)
    stopped_by: str | None = None
    remarks: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything can be used."""
        return self.good > 0 and not self.bad and self.stopped_by is None


Row = tuple[int, dict[str, Any]]


def check(path: Path, check_images: bool, encoder: SampleEncoder | None, workers: int) -> Checked:
    """Check a manifest; see `Checked`.

    Raises:
        RecordError: the file is missing or cannot be read at all.
    """
    checked = Checked(str(path))
    if encoder:
        checked.answers = checked.supervised_tokens = checked.with_marks = 0
    first: str | None = None
    rows = _good_lines(path, checked)
    for (line, row), measures in (
        _with_measures(rows, path.parent, workers) if check_images else _unmeasured(rows)
    ):
        problem = _image_problem(row, measures) if measures else None
        if problem:
            checked.bad.append(BadRow(line, "image", problem))
            continue
        if encoder:
            first = first or f"line {line}: {_shown(row)}"
            text, tokens = _supervision(row, path.parent, encoder)
            if text and not tokens:
                checked.bad.append(
                    BadRow(line, "supervision", f"no token of the answer {text[:MAX_SHOWN]!r} is supervised")
                )
                continue
            checked.answers = (checked.answers or 0) + bool(text)
            checked.supervised_tokens = (checked.supervised_tokens or 0) + tokens
            marks = encoder.marks_in(record_of(row, path.parent))
            checked.with_marks = (checked.with_marks or 0) + bool(marks)
            checked.marks += [mark for mark in marks if mark not in checked.marks]
        checked.good += 1
        for key, value in row.items():
            if value not in (None, []):
                checked.known[key] = checked.known.get(key, 0) + 1
    checked.bad.sort(key=lambda bad: bad.line)
    if not checked.good and not checked.bad:
        checked.stopped_by = "holds no records; a manifest has one JSON object a line"
    elif encoder and not checked.supervised_tokens:
        checked.stopped_by = f"no record has what this step teaches; the first is {first or 'no good record'}"
    return checked


def compare(results: Sequence[Checked]) -> None:
    """Add the remarks on records that repeat another of their manifest, or of a manifest before it.

    Hashes that a manifest lacks are computed from the pictures.
    """
    before: list[tuple[str, Keys]] = []
    for checked in results:
        if any(bad.kind == "record" for bad in checked.bad):
            checked.remarks.append("duplicates: not looked for; correct the bad lines first")
            continue
        try:
            keys = Keys(read_manifest(checked.path))
        except RecordError:  # `stopped_by` says it
            continue
        numbers = {kind: duplicates.repeats(duplicates.codes(keys.column(kind))) for kind in PICTURE}
        repeated = ", ".join(f"{rows.sum()} by {KINDS[kind]}" for kind, rows in numbers.items() if rows.any())
        checked.remarks.append(f"duplicates: {repeated or 'none'}")
        for path, other in before:
            shared = "; ".join(map(str, find_overlaps(keys, other)))
            checked.remarks.append(f"shared with {path}: {shared or 'nothing'}")
        checked.remarks += not_compared(keys.content, keys.content, "the manifest")
        before.append((checked.path, keys))


def _good_lines(path: Path, checked: Checked) -> Iterator[Row]:
    size = path.stat().st_size if path.is_file() else 0
    before = 0
    with tqdm(total=size, desc=path.name, unit="B", unit_scale=True, disable=None) as bar:
        for number, line, done in manifest_lines(path):
            bar.update(done - before)
            before = done
            try:
                row = parse_line(line, "")
            except RecordError as error:
                checked.bad.append(BadRow(number, "record", str(error).removeprefix(": ")))
                continue
            for key in _blank_keys(json.loads(line), row):
                checked.blanks[key] = checked.blanks.get(key, 0) + 1
            yield number, row


def _blank_keys(written: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """Keys whose values hold a word for nothing, by what a line says and how it was read."""
    return [
        key
        for key, value in written.items()
        if (isinstance(value, str) and value.strip() and row.get(key, value) is None)
        or (key in ("turns", "rejected") and value and len(value) > len(row[key]))
    ]


def _unmeasured(rows: Iterator[Row]) -> Iterator[tuple[Row, None]]:
    return ((row, None) for row in rows)


def _with_measures(
    rows: Iterator[Row], folder: Path, workers: int
) -> Iterator[tuple[Row, ImageMeasures | None]]:
    with closing(MeasureCache(":memory:")) as cache, closing(Measurer(cache, workers)) as measurer:
        yield from measurer(rows, lambda row: image_path(folder, row[1]["image"]), str)


def _image_problem(row: dict[str, Any], measures: ImageMeasures) -> str | None:
    if measures.reason:
        return measures.detail or measures.reason
    for key in ("sha256", "width", "height"):
        if row[key] is not None and row[key] != getattr(measures, key):
            return f"'{key}' is {row[key]} in the record, the picture's is {getattr(measures, key)}"
    if row["phash"] and measures.phash:
        bits = (int(row["phash"], 16) ^ int(measures.phash, 16)).bit_count()
        if bits > duplicates.NEAR:  # another version of Pillow may decode a picture a little differently
            return f"'phash' is {row['phash']} in the record, the picture's is {measures.phash}"
    return None


def _supervision(row: dict[str, Any], folder: Path, encoder: SampleEncoder) -> tuple[str, int]:
    """The answer that a row teaches ('' for none) and how many of its tokens are learned."""
    record = record_of(row, folder)
    text = answer_for(record, encoder.prompt)
    question = encoder.prompt.questions[0]
    if not text or not encoder.turns(record, question)[0].answer:
        return text, 0
    return text, sum(encoder(record, question).supervised)


def _shown(row: dict[str, Any]) -> str:
    text = json.dumps({key: value for key, value in row.items() if value is not None}, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def load_encoder(path: str, overrides: Sequence[str]) -> SampleEncoder:
    """The answers' encoder of a configuration: its prompt, and the tokenizer of its language model alone.

    Raises:
        ConfigError: the configuration cannot be used.
        UserError: the tokenizer cannot be loaded.
    """
    from skingpt4.config.load import load_config  # slow to import, and not needed without --config
    from skingpt4.training.samples import SampleEncoder
    from skingpt4.weights.language_model import read_tokenizer

    config = load_config(path, overrides)
    return SampleEncoder.from_config(config, read_tokenizer(config.language.model))


def describe(checked: Checked) -> str:
    """The result for people."""
    lines = [f"{checked.path}: {checked.good} good, {len(checked.bad)} bad"]
    lines += [f"  line {bad.line}: {bad.reason}" for bad in checked.bad]
    if checked.known:
        lines.append("  known: " + ", ".join(f"{key} {count}" for key, count in checked.known.items()))
    if checked.blanks:
        blanks = ", ".join(f"{key} {count}" for key, count in checked.blanks.items())
        lines.append(f"  words for nothing (nan, unknown, -, ...), read as empty: {blanks}")
    if checked.answers is not None:
        lines.append(
            f"  with an answer in this step: {checked.answers}; {checked.supervised_tokens} tokens supervised"
        )
    if checked.with_marks:
        marks = ", ".join(map(repr, checked.marks))
        lines.append(
            f"  with marks of the prompt ({marks}): {checked.with_marks}; taught as text, with a space in each"
        )
    lines += [f"  {remark}" for remark in checked.remarks]
    if checked.stopped_by:
        lines.append(f"  {checked.stopped_by}")
    return "\n".join(lines)
