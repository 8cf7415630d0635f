"""Figures of confidence: the reliability plot, and risk against coverage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib

from eval.figures import BLUE, INK, ORANGE, STYLE, new_axes, to_svg


def reliability_figure(bins: Sequence[dict[str, Any]]) -> str:
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
        said = f"Reliability of {len(bins)} bins; on the dotted line confidence is what it says."
        return to_svg(figure, "reliability", said)


def coverage_figure(curve: dict[str, Sequence[float]]) -> str:
    """Risk (share wrong) against coverage (share kept)."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(4.4, 4.6)
        coverage, risk = ([100 * x for x in curve[key]] for key in ("coverage", "risk"))
        axes.plot(coverage, risk, color=ORANGE, linewidth=2)
        axes.set(xlim=(0, 102), xlabel="cases answered, percent", ylabel="of those wrong, percent")
        axes.set_ylim(bottom=0)
        axes.grid()
        said = f"Risk against coverage: {risk[-1]:.0f} % wrong where all cases are answered."
        return to_svg(figure, "coverage", said)
