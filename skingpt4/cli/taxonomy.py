"""Show how the taxonomy reads a text: skingpt4 taxonomy."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from skingpt4.support.cli import make_parser
from skingpt4.support.errors import UserError, reason_of, reported
from skingpt4.support.regular import read_regular_text
from skingpt4.taxonomy.coverage import coverage
from skingpt4.taxonomy.free_text import OUTCOMES, Classified, classify


def _describe(text: str, result: Classified, as_json: bool) -> str:
    mention = result.mention
    if as_json:
        mentions = [{**asdict(m), "disease": m.term.usual, "class": m.class_name} for m in result.mentions]
        for item in mentions:
            del item["term"]
        return json.dumps(
            {"text": text, "class": result.class_name, "outcome": result.outcome, "mentions": mentions},
            ensure_ascii=False,
        )
    parts = [f"{result.class_name or '-':27} {result.outcome:10}"]
    if mention:
        cue = f" by '{mention.cue}'" if mention.cue else ""
        parts.append(f"'{mention.text}' at {mention.start}-{mention.end}, {mention.status}{cue}")
    return "  ".join(parts).rstrip()


def _print_coverage(as_json: bool) -> None:
    """Which labels of public data sets are known."""
    rows = list(coverage())
    if as_json:
        print(json.dumps([asdict(row) for row in rows], ensure_ascii=False))
        return
    print(f"{'data set':16} {'labels':>6} {'known':>6} {'with a class':>12}  not known")
    for row in rows:
        unknown = "; ".join(row.unknown) or "-"
        print(f"{row.name:16} {row.labels:6} {row.known:6} {row.classed:12}  {unknown}")


def main(argv: Sequence[str] | None = None) -> int:
    """Classify the texts of the command line or of a file; returns the exit status."""
    parser = make_parser("Which of the 15 classes a free text states.")
    parser.add_argument("text", nargs="*", help="texts to classify")
    parser.add_argument("--file", type=Path, help="a file with one text a line")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, with all mentions")
    parser.add_argument(
        "--coverage", action="store_true", help="count the labels of public data sets that are known instead"
    )
    args = parser.parse_args(argv)
    with reported() as status:
        if args.coverage:
            if args.text or args.file:
                raise UserError("--coverage takes no texts: it reads the labels of public data sets")
            _print_coverage(args.json)
            return 0
        texts = list(args.text)
        if args.file:
            try:
                texts += read_regular_text(args.file, None).splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{args.file}: cannot be read as text ({reason_of(error)})") from None
        if not texts:
            raise UserError("nothing to classify; give texts or --file")
        counts: Counter[str] = Counter()
        for text in texts:
            result = classify(text)
            counts[result.outcome] += 1
            print(_describe(text, result, args.json))
        if len(texts) > 1:
            summary = ", ".join(f"{counts[name]} {name}" for name in OUTCOMES if counts[name])
            print(f"{len(texts)} texts: {summary}", file=sys.stderr)
    return status.code
