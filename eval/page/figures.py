"""How the report looks: its figures as inline SVG and the style sheet they share.

A figure is drawn in placeholder colours that are exchanged for the page's CSS variables, so that it follows
the light, dark and printed page. The two accents are from Okabe and Ito's colour-blind-safe palette, and
wherever two things share axes they differ in shape or dash as well.
"""

import html
import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.measures.intervals import ConceptRow, Interval

INK, RULE, BLUE, ORANGE = "#010101", "#c8c8c9", "#0072b2", "#d55e00"
VARIABLES = {INK: "currentColor", RULE: "var(--rule)", BLUE: "var(--blue)", ORANGE: "var(--orange)"}
WIDTH = 6.2  # inches of 72 units each: narrow enough to stay readable on a phone

# Single types, and the pairs that DDI gives.
SKIN_TYPES = {"1": "I", "2": "II", "3": "III", "4": "IV", "5": "V", "6": "VI"}
SKIN_TYPES |= {"12": "I–II", "34": "III–IV", "56": "V–VI"}

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,  # a name may hold a dollar sign
    "font.size": 11,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
}

CSS = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--paper:#fff;--panel:#f6f7f8;--rule:#c9ced4;
--blue:#0072b2;--orange:#d55e00;--warn:#fff6dc;--warn-edge:#b98900}
@media (prefers-color-scheme:dark){:root{--ink:#e6e8ea;--soft:#a5adb5;--paper:#14171a;--panel:#1d2125;
--rule:#454c54;--blue:#56b4e9;--orange:#f0a04b;--warn:#2d2710;--warn-edge:#d9a92a}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .4rem}
h2{font-size:1.3rem;line-height:1.3;margin:2.8rem 0 .6rem;padding-top:.9rem;border-top:1px solid var(--rule)}
h3{font-size:1.02rem;margin:1.6rem 0 .35rem}article h3{margin-top:0}
.scroll{margin-top:1rem}
p,li{max-width:72ch}.lead{font-size:1.1rem}.soft{color:var(--soft)}
.warn{border:1px solid var(--warn-edge);border-left-width:6px;background:var(--warn);padding:.7rem 1rem;
margin:1rem 0;font-weight:600;max-width:none}
.scroll{overflow-x:auto}table{min-width:min(100%,26rem);border-collapse:collapse;font-size:.93rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);padding-bottom:.4rem}
th,td{text-align:left;vertical-align:top;padding:.42rem .9rem .42rem 0;border-bottom:1px solid var(--rule)}
thead th{border-bottom-width:2px;vertical-align:bottom}td small,th small{display:block;color:var(--soft);
font-weight:400;font-size:.82rem}tbody th{font-weight:600;
min-width:7.5rem}td.number,td.number small{white-space:nowrap}
figure{margin:1rem 0 0}figcaption{color:var(--soft);font-size:.9rem;margin-top:.3rem;max-width:72ch}
figure svg{display:block;width:100%;height:auto;max-width:580px}figure svg *{stroke-linejoin:round}
figure.wide svg{min-width:450px;max-width:700px}
.pair{display:grid;gap:0 2rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));
align-items:start}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--soft)}
article{border:1px solid var(--rule);background:var(--panel);border-radius:6px;padding:1rem;margin:1rem 0;
break-inside:avoid}
.case{display:flex;align-items:flex-start;gap:1rem;flex-wrap:wrap;margin-bottom:.8rem}
.case>div{flex:1 1 240px}
.case img,.nopicture{width:180px;height:auto;border-radius:4px;border:1px solid var(--rule);flex:none}
.nopicture{padding:2rem .5rem;text-align:center;color:var(--soft)}
.arms{display:grid;gap:.9rem 1.1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,180px),1fr))}
.arms section{border-top:2px solid var(--rule);padding-top:.4rem;font-size:.9rem;min-width:0;
overflow-wrap:break-word}
.arms p{margin:.25rem 0}.arms h4,.arms h5{margin:0;font-size:.92rem}.talk h4{margin:1.1rem 0 .4rem;font-size:.92rem}
td.words{min-width:7rem;max-width:34rem}
nav ul{padding:0;margin:.8rem 0 0;list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;max-width:none}
a{color:var(--blue)}
.right{color:var(--blue)}.wrong{color:var(--orange)}
.right,.wrong{font-weight:600}q{quotes:none}dl{margin:0}
.facts{columns:2 220px}.facts div{break-inside:avoid}dt{color:var(--soft);font-size:.82rem}
dd{margin:0 0 .4rem}code{font-size:.88em;overflow-wrap:anywhere}
@media (max-width:560px){main{padding:1.2rem .9rem 3rem}h1{font-size:1.5rem}ul{padding-left:1.2rem}
table{font-size:.84rem}th,td{padding-right:.55rem}td small,th small{font-size:.76rem}}
@media print{body{font-size:10.5pt;line-height:1.36}th,td{padding:.2rem .7rem .2rem 0}
main{max-width:none;padding:0}h2,h3{break-after:avoid}
figure,tr{break-inside:avoid}.scroll{overflow:visible}details::details-content{content-visibility:visible}
.pair{grid-template-columns:1fr 1fr}figure svg{max-width:420px}figure.wide svg{max-width:520px}
.case{margin-bottom:.4rem}.case img{width:110px}.arms section,.facts{font-size:8pt}article{padding:.6rem}
.arms{gap:.4rem .8rem;grid-template-columns:repeat(auto-fit,minmax(110px,1fr))}
summary,.arms details{display:none}}
"""


def escape(text: object) -> str:
    """Text made safe for HTML, in an attribute too."""
    return html.escape(str(text), quote=True)


def plain(name: str) -> str:
    """An identifier as words: `two_step` reads "two-step", `benign_tumors` "benign tumors"."""
    words = {"two_step": "two-step", "step1_only": "step 1 only", "step2_only": "step 2 only"}
    return words.get(name, name.replace("_", " "))


def to_svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an inline `<svg>` without prolog, namespaces or ids that could clash on one page."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    for placeholder, variable in VARIABLES.items():
        text = text.replace(placeholder, variable)
    # The font's size stays, its family is the page's own.
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None  # matplotlib always writes one
    return f'<svg {box.group()} role="img" aria-label="{escape(alt)}">' + text[text.index(">") + 1 :]


def new_axes(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A figure of this size in inches, with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _bars(
    axes: Axes, y: float, interval: Interval, colour: str, marker: str, label: str | None = None
) -> None:
    # Drawn by hand: an interval of the bootstrap need not reach around its own point, which errorbar refuses.
    axes.plot([100 * interval.low, 100 * interval.high], [y, y], color=colour, linewidth=2)
    axes.plot(
        [100 * interval.value], [y], color=colour, marker=marker, markersize=7, linestyle="none", label=label
    )


def _percent_axis(axes: Axes, rows: Sequence[str], label: str) -> None:
    axes.set_yticks(range(len(rows)), labels=list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-2, 102)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel(label)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def arms_figure(arms: dict[str, dict[str, Any]], chance: float) -> str:
    """Points with interval bars: top-1 (circle) and concept F1 (square) of every arm, and chance."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(1.2 + 0.55 * len(arms))
        for row, summary in enumerate(arms.values()):
            first = row == 0
            top1 = Interval.from_dict(summary["top1"])
            _bars(axes, row - 0.15, top1, BLUE, "o", "right class (top-1)" if first else None)
            if "concept_micro_f1" in summary:
                f1 = Interval.from_dict(summary["concept_micro_f1"])
                _bars(axes, row + 0.15, f1, ORANGE, "s", "concept micro F1" if first else None)
        axes.axvline(100 * chance, color=BLUE, linestyle=":", linewidth=1.4, label="top-1 by chance")
        _percent_axis(axes, list(arms), "percent, with 95 % interval")
        figure.legend(loc="outside upper left", ncols=3, handletextpad=0.4, columnspacing=1.2)
        said = ", ".join(f"{name} {100 * arm['top1']['value']:.0f} %" for name, arm in arms.items())
        return to_svg(figure, "arms", f"Top-1 and concept F1 of every arm with intervals. Top-1: {said}.")


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred running mean over a thirtieth of the run; at the ends over what is there."""
    kernel = np.ones(max(1, len(values) // 30))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def loss_figure(step: str, log: Sequence[dict[str, Any]]) -> str:
    """Training loss (raw and smoothed) and validation loss of one step."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(3.2)
        train, validation = (
            np.array([(row["iteration"], row["loss"]) for row in log if row["kind"] == kind]).reshape(-1, 2)
            for kind in ("train", "validation")
        )
        said = [f"Loss of {step} against iteration"]
        if len(train):
            axes.plot(*train.T, color=BLUE, alpha=0.3, linewidth=0.8)
            smooth = _smooth(train[:, 1])
            axes.plot(train[:, 0], smooth, color=BLUE, linewidth=2, label="train, smoothed")
            said.append(f"train from {smooth[0]:.2f} to {smooth[-1]:.2f}")
        if len(validation):
            axes.plot(*validation.T, color=ORANGE, marker="s", linestyle="--", label="validation")
            said.append(f"validation ends at {validation[-1, 1]:.2f}")
        axes.set(xlabel="iteration", ylabel="loss per answer token")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        figure.legend(loc="outside upper left", ncols=2)
        return to_svg(figure, step, "; ".join(said) + ".")


def confusion_figure(table: np.ndarray, names: Sequence[str]) -> str:
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
        return to_svg(figure, "confusion", f"Confusion matrix over {len(names)} classes: {right}.")


def concepts_figure(rows: Sequence[ConceptRow]) -> str:
    """One bar of F1 for each concept, labelled with its support."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(0.9 + 0.25 * len(rows))
        axes.barh(range(len(rows)), [100 * row.f1 for row in rows], height=0.62, color=BLUE)
        for place, row in enumerate(rows):
            axes.text(100 * row.f1 + 1, place, f"{100 * row.f1:.0f}", va="center_baseline", size=9.5)
        _percent_axis(axes, [f"{row.concept} ({row.support})" for row in rows], "F1 in percent")
        axes.set_xlim(0, 106)
        best = max(rows, key=lambda row: row.f1)
        said = f"F1 of {len(rows)} concepts; the highest is {best.concept} with {100 * best.f1:.0f} percent."
        return to_svg(figure, "concepts", said)


def groups_figure(groups: dict[str, Interval], name: str) -> str:
    """Points with interval bars for top-1 of every group, each labelled `right/n`."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(0.9 + 0.3 * len(groups))
        for row, interval in enumerate(groups.values()):
            _bars(axes, row, interval, BLUE, "o")
            counts = f"{round(interval.value * interval.n)}/{interval.n}"
            axes.text(105, row, counts, va="center_baseline", size=10, clip_on=False)
        _percent_axis(axes, list(groups), "right class, percent, with 95 % interval")
        said = ", ".join(f"{key} {100 * group.value:.0f} % of {group.n}" for key, group in groups.items())
        return to_svg(figure, name, f"Top-1 by group: {said}.")


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
