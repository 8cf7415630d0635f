"""The numbers that the SkinGPT-4 papers print, as data: published.yaml holds each number and its source."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from skingpt4.support.files import read_yaml


@cache
def published() -> dict[str, Any]:
    """All printed numbers by topic; every topic says `where` they are printed."""
    return read_yaml(Path(__file__).with_name("published.yaml"))


def concept_counts() -> dict[str, int]:
    """Table 1: samples of each of SKINCON's 48 concepts in step 1."""
    return published()["table1"]["counts"]


def class_counts() -> dict[str, int]:
    """Table 2: samples of each of the 15 classes, and of the others, in step 2."""
    return published()["table2"]["counts"]
