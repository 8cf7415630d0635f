"""All benchmarks of speed by name: python -m benchmarks NAME --help."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": "a training step, ours against the original's way",
    "levers": "a training step without each lever in turn",
    "scoring": "15 classes in one pass against one by one",
    "chat": "a consultation of four turns, ours against the original's way",
    "serving": "several consultations at once",
    "decode": "tokens a second, and bytes a second against a copy",
    "scaling": "throughput over batch, length, records and processes: table and plot",
    "cpu": "the default's settings on a CPU, side by side",
    "gpu": "everything for one GPU in one call of under ten minutes",
}
HELP = (
    "usage: python -m benchmarks NAME [--help] ...\n\n"
    + "\n".join(f"  {name:<9} {what}" for name, what in COMMANDS.items())
    + "\n\nResults go to benchmarks/results/ with hardware, versions and commit.\n"
    "Research software, not a medical device."
)


def main(argv: Sequence[str]) -> int:
    """Hand over to the benchmark of that name; returns its exit status."""
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP)
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        print(f"error: no benchmark '{argv[0]}'; choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return importlib.import_module(f"benchmarks.{argv[0]}").main(list(argv[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
