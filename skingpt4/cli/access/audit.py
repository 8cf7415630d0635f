"""Read and verify an audit log: skingpt4 audit."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from skingpt4.server.audit import START, AuditError, read, verify
from skingpt4.support.cli import make_parser
from skingpt4.support.errors import reported, without_controls


def _time(text: str) -> str:
    """A time as the log has it: UTC, to the second."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 2026-01-31T08:00") from None
    utc = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    return utc.strftime("%Y-%m-%dT%H:%M:%SZ")


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
    parser.add_argument("--user", help="show only what this user did")
    parser.add_argument(
        "--event", action="append", help="show only events of this name, e.g. log_in_failed; may be repeated"
    )
    parser.add_argument("--since", type=_time, metavar="TIME", help="show only from this time (UTC) on, e.g. "
        "2026-01-31 or 2026-01-31T08:00")  # fmt: skip
    parser.add_argument("--hash", help="the newest hash as it was noted before; the log must still hold it")
    args = parser.parse_args(argv)
    with reported() as status:
        lines = list(read(args.log))
        shown = [
            line
            for line in lines
            if (args.user is None or line.facts.get("user") == args.user)
            and (not args.event or line.event in args.event)
            and (args.since is None or line.time >= args.since)
        ]
        for line in shown[max(0, len(shown) - args.last) if args.last is not None else 0 :]:
            if args.json:
                print(json.dumps(line.__dict__))
            else:
                facts = json.dumps(line.facts, ensure_ascii=False)
                text = f"{line.id:6d}  {line.time}  {line.event:12s} {facts}"
                print(without_controls(text).replace("\n", "\\n"))  # one line is one line
        count, newest = verify(args.log)  # last, so that the lines of an incomplete log are shown too
        if args.hash and args.hash not in {START, *(line.hash for line in lines)}:
            raise AuditError(f"{args.log}: holds no line with the hash {args.hash}; lines were removed")
        if len(shown) < len(lines):
            print(f"{len(shown)} of the lines match", file=sys.stderr)
        print(f"{count} lines, complete; newest hash {newest}", file=sys.stderr)
    return status.code
