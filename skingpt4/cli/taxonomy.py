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


def main(argv: Sequence[str] | None = None) -> int:
    """Classify the texts of the command line or of a file; returns the exit status."""
    parser = make_parser("Which of the 15 classes a free text states.")
    parser.add_argument("text", nargs="*", help="texts to classify")
    parser.add_argument("--file", type=Path, help="a file with one text a line")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, with all mentions")
    args = parser.parse_args(argv)
    with reported() as status:
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
