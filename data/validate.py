"""Check manifests line by line: python -m data.validate MANIFEST... [--check-images] [--config CONFIG] [--json].

Every bad row is named with its line and the reason. With --config the answers that a training step would teach
are built and tokenised too, so that a run with nothing to learn is seen before it starts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.prepare import num_cores
from data.preparing.pictures import Measurer, Picture, PictureCache
from skingpt4.records.manifest import manifest_lines
from skingpt4.records.record import RecordError, parse_line, record_of
from skingpt4.support.errors import UserError, reported
from skingpt4.training.samples import SampleEncoder, answer_for

SHOWN = 200  # characters of an offending text


@dataclass
class Bad:
    """A row that cannot be used: its line in the file (from 1), the kind of problem, and the sentence."""

    line: int
    kind: str  # "record", "image", "supervision"
    reason: str


@dataclass
class Checked:
    """What was found in one manifest.

    `answers` counts the good records with an answer under the configuration, `supervised_tokens` what they
    teach; both are None without one. `stopped_by` says why a training on this manifest would stop.
    """

    path: str
    good: int = 0
    bad: list[Bad] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)  # records that have each key
    answers: int | None = None
    supervised_tokens: int | None = None
    stopped_by: str | None = None

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
    found = Checked(str(path))
    if encoder:
        found.answers = found.supervised_tokens = 0
    first: str | None = None
    rows = _good_lines(path, found)
    for (line, row), picture in _with_pictures(rows, path.parent, workers) if check_images else _alone(rows):
        problem = _picture_problem(row, picture) if picture else None
        if problem:
            found.bad.append(Bad(line, "image", problem))
            continue
        if encoder:
            first = first or f"line {line}: {_shown(row)}"
            text, tokens = _supervision(row, path.parent, encoder)
            if text and not tokens:
                found.bad.append(
                    Bad(line, "supervision", f"no token of the answer {text[:SHOWN]!r} is supervised")
                )
                continue
            found.answers = (found.answers or 0) + bool(text)
            found.supervised_tokens = (found.supervised_tokens or 0) + tokens
        found.good += 1
        for key, value in row.items():
            if value not in (None, []):
                found.known[key] = found.known.get(key, 0) + 1
    found.bad.sort(key=lambda bad: bad.line)
    if not found.good and not found.bad:
        found.stopped_by = "holds no records; a manifest has one JSON object a line"
    elif encoder and not found.supervised_tokens:
        found.stopped_by = f"no record has what this step teaches; the first is {first or 'no good record'}"
    return found


def _good_lines(path: Path, found: Checked) -> Iterator[Row]:
    size = path.stat().st_size if path.is_file() else 0
    before = 0
    with tqdm(total=size, desc=path.name, unit="B", unit_scale=True, disable=None) as bar:
        for number, line, done in manifest_lines(path):
            bar.update(done - before)
            before = done
            try:
                yield number, parse_line(line, "")
            except RecordError as error:
                found.bad.append(Bad(number, "record", str(error).removeprefix(": ")))


def _alone(rows: Iterator[Row]) -> Iterator[tuple[Row, None]]:
    return ((row, None) for row in rows)


def _with_pictures(rows: Iterator[Row], folder: Path, workers: int) -> Iterator[tuple[Row, Picture | None]]:
    with closing(PictureCache(":memory:")) as cache, closing(Measurer(cache, workers)) as measurer:
        yield from measurer(rows, lambda row: folder / row[1]["image"], str)


def _picture_problem(row: dict[str, Any], picture: Picture) -> str | None:
    if picture.reason:
        return picture.detail or picture.reason
    for key in ("sha256", "width", "height"):
        if row[key] is not None and row[key] != getattr(picture, key):
            return f"'{key}' is {row[key]} in the record, the picture's is {getattr(picture, key)}"
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
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def load_encoder(path: str, overrides: Sequence[str]) -> SampleEncoder:
    """The answers' encoder of a configuration: its prompt, and the tokenizer of its language model alone.

    Raises:
        ConfigError: the configuration cannot be used.
        UserError: the tokenizer cannot be loaded.
    """
    from transformers import AutoTokenizer  # slow to import, and not needed without --config

    from skingpt4.config.load import load_config

    config = load_config(path, overrides)
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.language.model)
    except (OSError, ValueError, KeyError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"language.model: no tokenizer in {config.language.model} ({said})") from None
    return SampleEncoder.from_config(config, tokenizer)


def report(found: Checked) -> str:
    """What was found, for people."""
    lines = [f"{found.path}: {found.good} good, {len(found.bad)} bad"]
    lines += [f"  line {bad.line}: {bad.reason}" for bad in found.bad]
    if found.known:
        lines.append("  known: " + ", ".join(f"{key} {count}" for key, count in found.known.items()))
    if found.answers is not None:
        lines.append(
            f"  with an answer in this step: {found.answers}; {found.supervised_tokens} tokens supervised"
        )
    if found.stopped_by:
        lines.append(f"  {found.stopped_by}")
    return "\n".join(lines)


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
    parser.add_argument("--workers", type=int, default=num_cores(), help="processes that open pictures")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    args = parser.parse_args(argv)
    with reported() as status:
        encoder = load_encoder(args.config, args.set) if args.config else None
        results = []
        for path in args.manifests:
            try:
                results.append(check(path, args.check_images, encoder, max(1, args.workers)))
            except RecordError as error:
                results.append(Checked(str(path), stopped_by=str(error).removeprefix(f"{path}: ")))
        if args.json:
            rows = [asdict(found) | {"ok": found.ok} for found in results]
            print(
                json.dumps({"ok": all(found.ok for found in results), "manifests": rows}, ensure_ascii=False)
            )
        else:
            print("\n".join(map(report, results)))
        if not all(found.ok for found in results):
            status.code = 1
    return status.code


if __name__ == "__main__":
    sys.exit(main())
