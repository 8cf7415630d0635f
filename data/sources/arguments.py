"""Options that several sources have."""

from __future__ import annotations

import argparse
from pathlib import Path

PHI = ("refuse", "redact", "allow")


def add_images_argument(parser: argparse.ArgumentParser, default: str) -> None:
    """Where the pictures are; `default` names the folder that is searched without it."""
    parser.add_argument(
        "--images", type=Path, metavar="DIR",
        help=f"the pictures, also in folders of it (default: {default})",
    )  # fmt: skip


def add_phi_argument(parser: argparse.ArgumentParser, what: str = "rows") -> None:
    """What is done about texts that seem to identify a person; `what` is refused then."""
    parser.add_argument(
        "--phi", choices=PHI, default="refuse",
        help=f"{what} with what seems to identify a person: refuse them, replace it, or keep it and record that",
    )  # fmt: skip
