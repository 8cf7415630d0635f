"""Two ways of doing the same work, run in turns in one process and compared pair by pair.

The speed of a machine drifts by more than the differences of interest; the two runs of a pair see the same machine.
Which of them is first alternates from pair to pair.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.harness import hardware

SECONDS = "seconds"
BASELINE = "yardstick"  # the baseline's name in results, which committed ones have
# A side's work; it may return further figures for which less is better, e.g. seconds to the first token.
Work = Callable[[], Mapping[str, float] | None]


@dataclass
class Side:
    """What was measured of one way: for each figure one value per pair."""

    figures: dict[str, list[float]] = field(default_factory=dict)
    peak_bytes: list[int | None] = field(default_factory=list)  # above what was held before the run

    def median(self, name: str = SECONDS) -> float:
        """Of one figure."""
        return statistics.median(self.figures[name])

    @property
    def peak(self) -> int | None:
        """The highest of all its runs."""
        return max((peak for peak in self.peak_bytes if peak is not None), default=None)


@dataclass
class Comparison:
    """Ours and the baseline; a ratio is the baseline's figure over ours, so more than 1 is our gain."""

    ours: Side
    baseline: Side

    def ratios(self, name: str = SECONDS) -> list[float]:
        """Of one figure, pair by pair."""
        both = zip(self.baseline.figures[name], self.ours.figures[name], strict=True)
        return [theirs / own for theirs, own in both]

    def ratio(self, name: str = SECONDS) -> float:
        """The median ratio of one figure."""
        return statistics.median(self.ratios(name))

    @property
    def peak_ratio(self) -> float | None:
        """The baseline's highest peak over ours."""
        ours, theirs = self.ours.peak, self.baseline.peak
        return theirs / ours if ours and theirs is not None else None

    def line(self, name: str = SECONDS) -> str:
        """One figure as a line, e.g. ``seconds: 1.52 against 3.4, 2.24x (2.10 to 2.31 in 5 pairs)``."""
        each = self.ratios(name)
        text = f"{name}: {self.ours.median(name):.3g} against {self.baseline.median(name):.3g}, "
        return text + f"{self.ratio(name):.2f}x ({min(each):.2f} to {max(each):.2f} in {len(each)} pairs)"

    def peak_line(self) -> str:
        """Both peaks as a line."""
        ours, theirs, ratio = self.ours.peak, self.baseline.peak, self.peak_ratio
        if ours is None or theirs is None or ratio is None:
            return "peak memory above the weights: not measured on this system"
        return f"peak memory above the weights: {ours / 2**20:.0f} MiB against {theirs / 2**20:.0f}, {ratio:.2f}x"

    def to_dict(self) -> dict[str, Any]:
        """For a result's JSON."""
        ratios = {}
        for name in self.ours.figures:
            each = self.ratios(name)
            ratios[name] = {
                "median": self.ratio(name), "minimum": min(each), "maximum": max(each), "each": each,
            }  # fmt: skip
        sides = {
            key: {**side.figures, "peak_bytes_above_weights": side.peak_bytes}
            for key, side in (("ours", self.ours), (BASELINE, self.baseline))
        }
        return {"ratios": ratios, "peak_ratio": self.peak_ratio, **sides}


def compare(
    ours: Work,
    baseline: Work,
    pairs: int = 5,
    warm_up: int = 1,
    device: torch.device | str = "cpu",
    what: str = "pairs",
) -> Comparison:
    """Run both `pairs` times in turns, with a progress bar; that both do the same work is the caller's part.

    Args:
        ours: our way.
        baseline: the other way.
        pairs: how many of them.
        warm_up: untimed runs of each before.
        device: to synchronise with, and whose memory is measured.
        what: the bar's title.
    """
    ways = {"ours": ours, "baseline": baseline}
    return Comparison(**in_turns(ways, pairs, warm_up, device, what))


def in_turns(
    ways: Mapping[str, Work],
    rounds: int,
    warm_up: int = 1,
    device: torch.device | str = "cpu",
    what: str = "rounds",
) -> dict[str, Side]:
    """Run several ways `rounds` times in turns, every second round in the opposite order, as `compare` does two.

    With a warm-up, peak memory is that of one more, untimed run: freed memory is returned to the system before it,
    and a timed run would include asking for it again. Without a warm-up it is the timed runs'.
    """
    for _ in range(warm_up):
        for work in ways.values():
            work()
    sides = {name: Side() for name in ways}
    for name in ways if warm_up else ():
        with hardware.PeakMemory(device) as memory:
            ways[name]()
        sides[name].peak_bytes.append(memory.peak_bytes)
    for number in tqdm(range(rounds), desc=what, unit="round", disable=None):
        for name in list(ways) if number % 2 == 0 else reversed(list(ways)):
            if warm_up:
                _time(sides[name], ways[name], device)
                continue
            with hardware.PeakMemory(device) as memory:
                _time(sides[name], ways[name], device)
            sides[name].peak_bytes.append(memory.peak_bytes)
    return sides


def _time(side: Side, work: Work, device: torch.device | str) -> None:
    hardware.synchronize(device)
    began = time.perf_counter()
    figures = work() or {}
    hardware.synchronize(device)
    took = time.perf_counter() - began
    for name, value in {SECONDS: took, **figures}.items():
        side.figures.setdefault(name, []).append(float(value))
