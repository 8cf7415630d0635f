"""What in a note identifies a person: where it is and of what kind, never the text itself.

Patterns, not a language model: they find what is written in a usual form (a name after a title or a label, a
full date, a telephone number, an address with a house number). They cannot find a bare name, a rare place or a
story that only one person has. `python -m data.phi measure FILE` says how many of the marked places they find.

    python -m data.phi scan notes.txt          the kinds of findings, line by line
    python -m data.phi measure labelled.txt    precision and recall with intervals
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from skingpt4.support.errors import reported


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (scan: 3 if anything was found)."""
    parser = argparse.ArgumentParser(prog="python -m data.phi", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("command", choices=("scan", "measure"))
    parser.add_argument("file", type=Path, help="one note per line")
    args = parser.parse_args(argv)
    # After parsing, so that --help is instant.
    from data.reading.phi import measure, rate, read_labelled, read_lines, scan

    with reported() as status:
        if args.command == "measure":
            result = measure(read_labelled(args.file))
            print(f"recall     {rate(result.places_found, result.places)}")
            print(f"covered    {rate(result.places_covered, result.places)}")
            print(f"precision  {rate(result.findings_right, result.findings)}")
            print(f"clean notes flagged  {rate(result.clean_notes_flagged, result.clean_notes)}")
            print(f"missed by kind  {dict(result.missed) or 'none'}")
            return 0
        total: Counter[str] = Counter()
        for number, line in enumerate(read_lines(args.file), 1):
            kinds = Counter(f.kind for f in scan(line))
            total += kinds
            if kinds:
                print(f"line {number}: {', '.join(f'{n} {kind}' for kind, n in kinds.items())}")
        print(f"{total.total()} findings", file=sys.stderr)
        status.code = 3 if total else 0
    return status.code


if __name__ == "__main__":
    sys.exit(main())
