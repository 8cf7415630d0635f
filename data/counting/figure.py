"""The counts as a figure: bars of concepts and classes, with the paper's beside them if they are compared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data.counting.against_paper import Comparison
from data.counting.counts import Counts

# Okabe and Ito's colour-blind-safe palette; the paper's bars are hatched too.
OURS, PAPER = "#0072b2", "#e69f00"
TITLES = {"concept": "concepts", "class": "classes", "source": "sources", "split": "splits",
          "fitzpatrick": "Fitzpatrick types"}  # fmt: skip
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titleweight": "bold",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "hatch.linewidth": 0.4,
    "text.parse_math": False,
}
PAIRS = {"12": "1 or 2", "34": "3 or 4", "56": "5 or 6"}  # as DDI gives skin types
NOTE = "Research software, not a medical device. Numbers of records; bars on a square-root scale."
NOTE_PAPER = f"{NOTE} Two numbers mean: here | the paper."
ROW, HEAD = 0.17, 0.55  # inches of a row and of the space above and below the rows
MAX_ROWS = 30  # of an open vocabulary (sources, splits)


def draw(counts: Counts, comparisons: dict[str, Comparison], path: Path) -> None:
    """Write the figure: concepts at the left, the smaller tables at the right.

    Args:
        counts: what was counted.
        comparisons: by dimension ("concept", "class"); their rows are drawn with both counts.
        path: a PNG (or another type that matplotlib writes); written completely or not at all.
    """
    panels = {name: _rows(name, counts, comparisons.get(name)) for name in TITLES}
    panels = {name: rows for name, rows in panels.items() if rows}
    tall = [name for name in ("concept",) if name in panels]
    rest = [name for name in panels if name != "concept"]
    # A few more bars go below the concepts; full tables get a column of their own.
    columns = [tall, rest] if tall and sum(len(panels[name]) for name in rest) > 8 else [tall + rest]
    heights = [sum(_height(panels[name]) for name in column) for column in columns]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4 * len(columns), max(heights) + 0.5), layout="constrained", dpi=130)
        parts = figure.subfigures(1, len(columns), squeeze=False)[0]
        for part, column, height in zip(parts, columns, heights, strict=True):
            ratios = [_height(panels[name]) for name in column]
            empty = max(heights) - height
            if empty > 0.5:
                ratios.append(empty)
            all_axes = part.subplots(len(ratios), 1, height_ratios=ratios, squeeze=False)[:, 0]
            for name, axes in zip(column, all_axes, strict=False):
                _bars(axes, name, panels[name], comparisons.get(name))
            for axes in all_axes[len(column) :]:
                axes.axis("off")
        figure.supxlabel(NOTE_PAPER if comparisons else NOTE, size=8)
        draft = path.with_name(f".{path.stem}.partial{path.suffix}")
        figure.savefig(draft)
        os.replace(draft, path)


Bars = list[tuple[str, int, int | None]]


def _rows(name: str, counts: Counts, comparison: Comparison | None) -> Bars:
    """(label, ours, the paper's) of a panel, most frequent first; skin types in their order."""
    if comparison is not None:
        rows = [(row.name, row.ours, row.paper) for row in comparison.rows]
        return sorted(rows, key=lambda row: (row[2] is None, -(row[2] or 0), -row[1]))
    bars: Bars = [(PAIRS.get(value, value), count, None) for value, count in counts.total(name).items()]
    if name in ("concept", "class"):
        bars.sort(key=lambda row: -row[1])
    if len(bars) > MAX_ROWS and name in ("source", "split"):
        rest = sum(count for _, count, _ in bars[MAX_ROWS - 1 :])
        bars = [*bars[: MAX_ROWS - 1], (f"{len(bars) - MAX_ROWS + 1} more", rest, None)]
    return bars


def _height(rows: Bars) -> float:
    pair = any(paper is not None for _, _, paper in rows)
    return HEAD + ROW * len(rows) * (1.25 if pair else 1.0)


def _bars(axes: Axes, name: str, rows: Bars, comparison: Comparison | None) -> None:
    place = np.arange(len(rows))
    ours = [count for _, count, _ in rows]
    longest = max(max(ours), *(paper or 0 for _, _, paper in rows), 1)
    if comparison is None:
        axes.barh(place, ours, 0.72, color=OURS)
    else:
        printed = [paper or 0 for _, _, paper in rows]
        axes.barh(place - 0.2, ours, 0.38, color=OURS, label="counted here")
        axes.barh(place + 0.2, printed, 0.38, color=PAPER, hatch="////", edgecolor="white", label="the paper")
        axes.legend(loc="lower right", frameon=False)
    for row, (_, count, paper) in enumerate(rows):
        text = f"{count:,}"
        if comparison is not None and paper != count:
            text += f" | {'-' if paper is None else f'{paper:,}'}"
        end = (max(count, paper or 0), row)
        axes.annotate(text, end, (4, 0), textcoords="offset points", va="center_baseline", size=7.5)
    # Counts reach from 5 to 20,000: roots keep the small ones visible without a logarithm's false lengths.
    axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
    axes.set_xlim(0, longest * 1.4)
    axes.set_xticks([longest * fraction for fraction in (0, 0.1, 0.4, 1)], ["" for _ in range(4)])
    axes.tick_params(axis="x", length=0)
    axes.tick_params(axis="y", length=0)
    axes.set_yticks(place, [label.replace("_", " ") for label, _, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    title = comparison.title if comparison else TITLES[name]
    axes.set_title(title[0].upper() + title[1:])
