"""Read and verify an audit log: skingpt4 audit."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from skingpt4.server.audit import START, AuditError, read, verify
from skingpt4.support.cli import make_parser
from skingpt4.support.errors import reported, without_controls


def main(argv: Sequence[str] | None = None) -> int:
    """Show a log and verify it; returns the exit status, 1 where a line is missing or was changed."""
    parser = make_parser("Show an audit log and check that no line is missing.")
    parser.add_argument(
        "log", help="the SQLite file that demo.py or skingpt4 http-api writes with --audit-log"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--last", type=int, metavar="N", help="show the newest N lines only; all are verified"
    )
    parser.add_argument("--hash", help="the newest hash as it was noted before; the log must still hold it")
    args = parser.parse_args(argv)
    with reported() as status:
        lines = list(read(args.log))
        for line in lines[max(0, len(lines) - args.last) if args.last is not None else 0 :]:
            if args.json:
                print(json.dumps(line.__dict__))
            else:
                facts = json.dumps(line.facts, ensure_ascii=False)
                print(without_controls(f"{line.id:6d}  {line.time}  {line.event:12s} {facts}"))
        count, newest = verify(args.log)  # last, so that the lines of an incomplete log are shown too
        if args.hash and args.hash not in {START, *(line.hash for line in lines)}:
            raise AuditError(f"{args.log}: holds no line with the hash {args.hash}; lines were removed")
        print(f"{count} lines, complete; newest hash {newest}", file=sys.stderr)
    return status.code
