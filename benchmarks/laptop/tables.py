"""The tables of docs/performance.md about engines for a laptop's processor."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.harness.results import share

NAMES = {"in_process": "in process", "openvino": "OpenVINO", "llama_cpp": "llama.cpp"}


def speeds(result: dict[str, Any]) -> str:
    """Markdown: each engine and precision beside the own decoder in fp32, at each number of users."""
    users = [f"{count} at once" if count > 1 else "1 user" for count in result["users"]]
    lines = [f"| engine | weights | {' | '.join(users)} |", f"|---|---|{'---|' * len(users)}"]
    for row in result["rows"]:
        size = f"{row['precision']}, {row['bytes'] / 1e6:,.0f} MB"
        lines.append(f"| {NAMES[row['engine']]} | {size} | {' | '.join(map(_rate, row['rates']))} |")
    return "\n".join(lines)


def _rate(rate: dict[str, Any]) -> str:
    other, own = (statistics.median(values) for values in rate["tokens_per_second"].values())
    ratios = rate["ratios"]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} pairs"
    return f"{other:.1f} against {own:.1f} tokens/s, **{rate['median_ratio']:.2f} x** ({spread})"


def agreement(result: dict[str, Any]) -> str:
    """Markdown: how near each engine's tokens are to the own decoder's, for most users at once."""
    lines = [
        "| engine | weights | equal answers | its likeliest token is the own decoder's | mean difference in nats |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        near = row["rates"][-1]["agreement"]
        equal = f"{near['equal_answers']} of {near['answers']}"
        share, nats = 100 * near["same_likeliest_token"], near["mean_difference_nats"]
        lines.append(
            f"| {NAMES[row['engine']]} | {row['precision']} | {equal} | {share:.1f} % | {nats:.4f} |"
        )
    return "\n".join(lines)


def cases(result: dict[str, Any]) -> str:
    """Markdown: texts about the cases in each precision of llama.cpp, beside the own decoder's."""
    lines = [
        "| answers by | the own decoder's answer | class in text | concept F1 | n |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        engine = NAMES.get(name, f"llama.cpp, {name}")
        equal = "" if name in NAMES else share(row["equal_answers"])
        texts = [share(row[measure]) for measure in ("top1_text", "concept_micro_f1")]
        lines.append(f"| {engine} | {equal} | {' | '.join(texts)} | {row['top1_text']['n']} |")
    return "\n".join(lines)
