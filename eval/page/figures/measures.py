"""The report's figures of measures."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from eval.measures.intervals import ConceptRow, Interval
from eval.page.figures.drawing import BLUE, INK, ORANGE, RULE, STYLE, new_axes, to_drawing
from eval.page.parts import Drawing


def _bars(axes: Axes, y: float, interval: Interval, colour: str, marker: str) -> None:
    # Drawn by hand: an interval of the bootstrap need not reach around its own point, which errorbar refuses.
    axes.plot([100 * interval.low, 100 * interval.high], [y, y], color=colour, linewidth=2)
    axes.plot([100 * interval.value], [y], color=colour, marker=marker, markersize=7, linestyle="none")


def _percent_axis(axes: Axes, rows: Sequence[str], label: str) -> None:
    axes.set_yticks(range(len(rows)), labels=list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-2, 102)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel(label)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


# Measure -> (words, place beside the arm's row, colour, marker).
MARKS = {
    "top1": ("top-1", -0.2, BLUE, "o"),
    "top1_text": ("class in text", 0.0, INK, "^"),
    "concept_micro_f1": ("concept F1", 0.2, ORANGE, "s"),
}


def arms_figure(arms: dict[str, dict[str, Any]], chance: float | None, name: str = "arms") -> Drawing:
    """Points with interval bars of every arm, of the measures that it has, and top-1 by chance.

    Args:
        arms: words of a row -> its measures.
        chance: share of right answers by chance, or None.
        name: of the figure on the page, without spaces.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(1.2 + 0.6 * len(arms))
        for words, _, colour, marker in MARKS.values():
            axes.plot([], [], color=colour, marker=marker, markersize=7, label=words)
        for row, summary in enumerate(arms.values()):
            for measure, (_, place, colour, marker) in MARKS.items():
                if measure in summary:
                    _bars(axes, row + place, Interval.from_dict(summary[measure]), colour, marker)
        if chance:
            axes.axvline(100 * chance, color=BLUE, linestyle=":", linewidth=1.4, label="chance")
        _percent_axis(axes, list(arms), "percent, with 95 % interval")
        figure.legend(loc="outside upper left", ncols=4, handletextpad=0.4, columnspacing=1.2)
        shares = ", ".join(
            f"{words} {100 * arm['top1']['value']:.0f} %" for words, arm in arms.items() if "top1" in arm
        )
        alt = "Top-1, class in text and concept F1 of every arm that has them, with intervals."
        return to_drawing(figure, name, f"{alt} Top-1: {shares}." if shares else alt)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred running mean over a thirtieth of the run; at the ends over what is there."""
    kernel = np.ones(max(1, len(values) // 30))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def loss_figure(step: str, log: Sequence[dict[str, Any]]) -> Drawing:
    """Training loss (raw and smoothed) and validation loss of one step."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(3.2)
        train, validation = (
            np.array([(row["iteration"], row["loss"]) for row in log if row["kind"] == kind]).reshape(-1, 2)
            for kind in ("train", "validation")
        )
        facts = [f"Loss of {step} against iteration"]
        if len(train):
            axes.plot(*train.T, color=BLUE, alpha=0.3, linewidth=0.8)
            smooth = _smooth(train[:, 1])
            axes.plot(train[:, 0], smooth, color=BLUE, linewidth=2, label="train, smoothed")
            facts.append(f"train from {smooth[0]:.2f} to {smooth[-1]:.2f}")
        if len(validation):
            axes.plot(*validation.T, color=ORANGE, marker="s", linestyle="--", label="validation")
            facts.append(f"validation ends at {validation[-1, 1]:.2f}")
        axes.set(xlabel="iteration", ylabel="loss per answer token")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        figure.legend(loc="outside upper left", ncols=2)
        return to_drawing(figure, step, "; ".join(facts) + ".")


def confusion_figure(table: np.ndarray, names: Sequence[str]) -> Drawing:
    """Heat map of counts, coloured by the share of the true class; empty cells stay blank."""
    with matplotlib.rc_context({**STYLE, "axes.spines.left": False, "axes.spines.bottom": False}):
        size = 2.6 + 0.32 * len(names)
        figure, axes = new_axes(size, size + 0.3)
        share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
        axes.pcolormesh(
            np.ma.masked_equal(share, 0), cmap="Blues", vmin=0, vmax=1, edgecolors=RULE, linewidth=0.4
        )
        for row, column in zip(*np.nonzero(table), strict=True):
            # Cell colours are the same in light and dark, so the numbers on them are fixed too.
            ink = "#ffffff" if share[row, column] > 0.55 else "#111111"
            cell = (column + 0.5, row + 0.5)
            axes.text(*cell, str(table[row, column]), ha="center", va="center_baseline", color=ink, size=10)
        middle = np.arange(len(names)) + 0.5
        # On top and held by their first letter, so that they line up in any font.
        axes.xaxis.set_ticks_position("top")
        axes.xaxis.set_label_position("top")
        upright: dict[str, Any] = {"rotation": 90, "rotation_mode": "anchor", "ha": "left", "va": "center"}
        axes.set_xticks(middle, labels=list(names), **upright)
        axes.set_yticks(middle, labels=list(names))
        axes.tick_params(length=0)
        axes.set(xlabel="predicted class", ylabel="true class", aspect="equal")
        axes.invert_yaxis()
        right = f"{int(np.trace(table))} of {int(table.sum())} cases lie on the diagonal"
        return to_drawing(figure, "confusion", f"Confusion matrix over {len(names)} classes: {right}.")


def concepts_figure(rows: Sequence[ConceptRow]) -> Drawing:
    """One bar of F1 for each concept, labelled with its support."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(0.9 + 0.25 * len(rows))
        axes.barh(range(len(rows)), [100 * row.f1 for row in rows], height=0.62, color=BLUE)
        for place, row in enumerate(rows):
            axes.text(100 * row.f1 + 1, place, f"{100 * row.f1:.0f}", va="center_baseline", size=9.5)
        _percent_axis(axes, [f"{row.concept} ({row.support})" for row in rows], "F1 in percent")
        axes.set_xlim(0, 106)
        best = max(rows, key=lambda row: row.f1)
        alt = f"F1 of {len(rows)} concepts; the highest is {best.concept} with {100 * best.f1:.0f} percent."
        return to_drawing(figure, "concepts", alt)


def groups_figure(groups: dict[str, Interval], name: str) -> Drawing:
    """Points with interval bars for top-1 of every group, each labelled `right/n`."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(0.9 + 0.3 * len(groups))
        for row, interval in enumerate(groups.values()):
            _bars(axes, row, interval, BLUE, "o")
            counts = f"{round(interval.value * interval.n)}/{interval.n}"
            axes.text(105, row, counts, va="center_baseline", size=10, clip_on=False)
        _percent_axis(axes, list(groups), "right class, percent, with 95 % interval")
        shares = ", ".join(f"{key} {100 * group.value:.0f} % of {group.n}" for key, group in groups.items())
        return to_drawing(figure, name, f"Top-1 by group: {shares}.")


def reliability_figure(bins: Sequence[dict[str, Any]]) -> Drawing:
    """Accuracy against mean confidence of each bin (dict of confidence, accuracy {value, low, high}, n)."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(4.4, 4.6)
        axes.plot([0, 100], [0, 100], color=INK, linestyle=":", linewidth=1.2)
        for part in bins:
            x, accuracy = 100 * part["confidence"], part["accuracy"]
            axes.plot([x, x], [100 * accuracy["low"], 100 * accuracy["high"]], color=BLUE, linewidth=1.6)
            axes.plot([x], [100 * accuracy["value"]], "o", color=BLUE, markersize=6)
        axes.set(
            xlim=(0, 102),
            ylim=(0, 102),
            xlabel="confidence, percent",
            ylabel="right, percent",
            aspect="equal",
        )
        axes.grid()
        alt = f"Reliability of {len(bins)} bins; on the dotted line confidence is what it says."
        return to_drawing(figure, "reliability", alt)


def coverage_figure(curve: dict[str, Sequence[float]]) -> Drawing:
    """Risk (share wrong) against coverage (share answered)."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(4.4, 4.6)
        coverage, risk = ([100 * x for x in curve[key]] for key in ("coverage", "risk"))
        axes.plot(coverage, risk, color=ORANGE, linewidth=2)
        axes.set(xlim=(0, 102), xlabel="cases answered, percent", ylabel="of those wrong, percent")
        axes.set_ylim(bottom=0)
        axes.grid()
        alt = f"Risk against coverage: {risk[-1]:.0f} % wrong where all cases are answered."
        return to_drawing(figure, "coverage", alt)
