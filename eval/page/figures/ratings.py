"""Figures of what people said and how long it took: the scale by item, response times, repeats as a heat map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.patches import Patch

from eval.page.figures.drawing import BLUE, INK, ORANGE, RULE, STYLE, new_axes, to_drawing
from eval.page.parts import Drawing
from eval.rating.ratings import SCALE

# From strongly agree to strongly disagree: blue to orange over grey, with ink that can be read on each; the same on
# light and dark pages, so that the words on them can be.
SHADES = {5: ("#005a8f", "#fff"), 4: ("#6fb1d8", "#111"), 3: ("#d0d0d0", "#111"), 2: ("#f3b27a", "#111"),
          1: ("#b84a00", "#fff")}  # fmt: skip
NARROWEST = 0.055  # share of a bar that still holds its number


def scale_figure(
    items: Mapping[str, dict[str, Any]], printed: Mapping[str, Sequence[float]], name: str
) -> Drawing:
    """Figure 4a: a stacked bar of the five points for each item, and under it the share that agrees.

    Args:
        items: words of the item -> `eval.rating.summary.item_summary`.
        printed: the same words -> percentages that the paper's editions print for agreement.
        name: of the figure on the page, without spaces.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(1.3 + 0.92 * len(items))
        ticks = []
        for row, (words, item) in enumerate(items.items()):
            left, total = 0.0, sum(item["counts"].values())
            for number, (shade, ink) in SHADES.items():
                # Keys are text where the summary went through JSON.
                count = item["counts"].get(number, item["counts"].get(str(number), 0))
                share = count / total
                axes.barh(
                    row, 100 * share, left=left, height=0.42, color=shade, edgecolor=RULE, linewidth=0.4
                )
                if share >= NARROWEST:
                    middle = (left + 50 * share, row)
                    axes.text(
                        *middle, f"{100 * share:.0f}", ha="center", va="center_baseline", color=ink, size=9.5
                    )
                left += 100 * share
            agree = item["agree"]
            axes.plot([100 * agree["low"], 100 * agree["high"]], [row + 0.33] * 2, color=INK, linewidth=2)
            axes.plot([100 * agree["value"]], [row + 0.33], "o", color=INK, markersize=5)
            for percent in printed.get(words, ()):
                axes.plot([percent], [row + 0.33], "D", color=ORANGE, markersize=5, markerfacecolor="none")
            ticks.append(f"{words}\nn = {total}")
        axes.set_yticks(range(len(items)), labels=ticks)
        axes.set_ylim(len(items) - 0.4, -0.45)
        axes.set_xlim(0, 100)
        axes.set_xlabel("percent of the ratings")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0, labelsize=9.5)
        axes.spines["left"].set_visible(False)
        handles: list[Any] = [Patch(facecolor=SHADES[number][0], label=SCALE[number]) for number in SHADES]
        handles += axes.plot([], [], "o-", color=INK, markersize=5, label="agree: 95 % interval")
        if printed:
            handles += axes.plot(
                [], [], "D", color=ORANGE, markersize=5, markerfacecolor="none", label="agree: published"
            )
        figure.legend(
            handles=handles,
            loc="outside upper left",
            ncols=3,
            fontsize=9,
            handlelength=1.2,
            columnspacing=1.0,
        )
        shares = ", ".join(f"{words} {100 * item['agree']['value']:.0f} %" for words, item in items.items())
        return to_drawing(
            figure, name, f"Ratings on the five-point scale by item. Agree or strongly agree: {shares}."
        )


def times_figure(seconds: Mapping[str, Sequence[float]], doctors: tuple[float, float] | None) -> Drawing:
    """Figure 4b: a box plot for each row, seconds on a logarithmic axis; the published doctors' range as a band.

    Args:
        seconds: words of a row -> its times, each above 0.
        doctors: lowest and highest in seconds, or None.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(1.4 + 0.42 * len(seconds))
        line = {"color": BLUE, "linewidth": 1.4}
        axes.boxplot(
            list(seconds.values()), orientation="horizontal", widths=0.55, whis=(5, 95),
            positions=range(len(seconds)), boxprops=line, whiskerprops=line, capprops=line,
            medianprops={"color": ORANGE, "linewidth": 2.2},
            flierprops={"marker": ".", "markersize": 3, "markeredgecolor": BLUE},
        )  # fmt: skip
        axes.set_xscale("log")
        if doctors:
            axes.axvspan(*doctors, color=RULE, alpha=0.45, linewidth=0)
            axes.text(
                (doctors[0] * doctors[1]) ** 0.5, -0.62, "published, doctors'\nown account", ha="center", va="bottom",
                size=9,
            )  # fmt: skip
        low, high = (
            f(np.concatenate([np.asarray(v, float) for v in seconds.values()])) for f in (np.min, np.max)
        )
        axes.set_xlim(low / 1.5, max(high, doctors[1] if doctors else 0) * 1.5)
        decades = [0.01, 0.1, 1, 10, 60, 600, 3600]
        words = ["0.01 s", "0.1 s", "1 s", "10 s", "1 min", "10 min", "1 h"]
        shown = [
            (t, w)
            for t, w in zip(decades, words, strict=True)
            if axes.get_xlim()[0] <= t <= axes.get_xlim()[1]
        ]
        axes.set_xticks([t for t, _ in shown], labels=[w for _, w in shown])
        axes.minorticks_off()
        axes.set_yticks(range(len(seconds)), labels=list(seconds))
        axes.set_ylim(len(seconds) - 0.4, -0.6)
        axes.set_xlabel("time, logarithmic; box: quartiles, whiskers: 5 and 95 %")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        medians = ", ".join(f"{words} {np.median(values):.2g} s" for words, values in seconds.items())
        return to_drawing(figure, "times", f"Box plots of response times. Medians: {medians}.")


def repeats_figure(answers: Sequence[Sequence[str | None]], name: str) -> Drawing:
    """Figure 4c: repeats (rows) by cases (columns): the case's most frequent answer, another, or none.

    Args:
        answers: (cases, repeats) classes, None where an answer commits to none.
        name: of the figure on the page, without spaces.
    """
    with matplotlib.rc_context({**STYLE, "axes.spines.left": False, "axes.spines.bottom": False}):
        codes = np.array([_against_mode(row) for row in answers])
        order = np.lexsort((np.arange(len(codes)), -(codes == 0).sum(axis=1)))
        table = codes[order].T
        repeats, cases = table.shape
        figure, axes = new_axes(1.35 + 0.26 * repeats)
        colours = ListedColormap([SHADES[5][0], SHADES[2][0], SHADES[3][0]])
        edges = {"edgecolors": "#ffffff", "linewidth": 0.4} if cases <= 100 else {"edgecolors": "face"}
        axes.pcolormesh(table, cmap=colours, norm=BoundaryNorm([-0.5, 0.5, 1.5, 2.5], 3), **edges)
        axes.set_yticks(np.arange(repeats) + 0.5, labels=[str(number + 1) for number in range(repeats)])
        axes.invert_yaxis()
        axes.set(xlabel="cases, the steadiest first", ylabel="repeat")
        axes.tick_params(length=0)
        words = ("the case's most frequent class (twice or more)", "another class", "no class")
        handles = [
            Patch(facecolor=colours(code), label=text)
            for code, text in enumerate(words) if (table == code).any()
        ]  # fmt: skip
        figure.legend(handles=handles, loc="outside upper left", ncols=3, fontsize=9, handlelength=1.2)
        share = 100 * (table == 0).mean()
        summary = f"{repeats} repeats of {cases} cases; {share:.0f} % of the answers"
        summary += " are the case's most frequent one."
        return to_drawing(figure, name, f"Heat map of consistency: {summary}")


def _against_mode(row: Sequence[str | None]) -> list[int]:
    """0 for the case's most frequent class (the first among equals), 1 for another, 2 for none.

    A class that is named but once is not the most frequent one: such a case has no steady answer.
    """
    named = [answer for answer in row if answer is not None]
    mode = max(dict.fromkeys(named), key=named.count, default=None)
    if named.count(mode or "") < 2:
        mode = None
    return [2 if answer is None else int(answer != mode) for answer in row]
