"""Trains, and says whether the group of processes was left; run by training/distributed/test_processes.py."""

from __future__ import annotations

import torch

import train


def main(argv: list[str]) -> int:
    """`train.main`; returns its exit status."""
    code = train.main(argv)
    print("OPEN" if torch.distributed.is_initialized() else "CLOSED", flush=True)
    return code
