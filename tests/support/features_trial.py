"""Trains, slowly where features are written: each row is logged as `RANK ROW` in `argv[0]`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import train
from skingpt4.records.feature_store import FeatureWriter


def main(argv: list[str]) -> int:
    """Train with the remaining arguments."""
    write = FeatureWriter.write

    def logged(self: FeatureWriter, row: int, *args: Any) -> None:
        write(self, row, *args)
        with Path(argv[0]).open("a") as file:
            file.write(f"{os.environ['RANK']} {row}\n")
        time.sleep(float(os.environ["SLOW"]))

    FeatureWriter.write = logged  # type: ignore[method-assign]  # in this process alone
    return train.main(argv[1:])
