"""What the pairs of `benchmarks/results` came to, as the tables of README and docs/performance.md.

`tests/support/figures.py` writes them into the documents.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness.pairs import BASELINE, SECONDS

RESULTS = Path(__file__).parents[1] / "results"
FOLLOW_UP = "first token of turns 2 to 4"
HEAD = "| `python -m benchmarks` | ours, and the original's way | speed-up | by the count | peak memory | measured |"


def _row(
    what: str, rates: str, compared: dict[str, Any], name: str = SECONDS, count: float | None = None
) -> str:
    """A row but for its last cell; more than 1 is our gain, below 1 is less memory."""
    ratio, peak = compared["ratios"][name], compared["peak_ratio"]
    pairs = f"{len(ratio['each'])} pair{'s' * (len(ratio['each']) > 1)}"
    spread = f"**{ratio['median']:.2f} x** ({ratio['minimum']:.2f} to {ratio['maximum']:.2f}, {pairs})"
    memory = f"{1 / peak:.2f} x" if peak and name == SECONDS else ""
    return f"| {what} | {rates} | {spread} | {'' if count is None else f'{count:.2f} x'} | {memory} |"


def _seconds(compared: dict[str, Any], name: str = SECONDS) -> str:
    ours, theirs = (statistics.median(compared[side][name]) for side in ("ours", BASELINE))
    return f"{ours:.3g} and {theirs:.3g} s"


def _train(result: dict[str, Any]) -> Iterator[str]:
    ours, theirs = (result[f"count_{side}"]["samples_per_second"] for side in ("ours", BASELINE))
    rates = f"{ours:.2f} and {theirs:.2f} samples/s"
    yield _row(
        "`train`: 8 answers of 20 to 160 tokens", rates, result["measured"], count=result["count_ratio"]
    )


def _scoring(result: dict[str, Any]) -> Iterator[str]:
    compared = result["measured"]
    yield _row(
        "`scoring`: 15 classes, one pass and one by one",
        _seconds(compared),
        compared,
        count=result["count_ratio"],
    )
    compared = result["with_the_encoder_for_every_class"]
    yield _row("the same, the picture encoded for every class", _seconds(compared), compared)


def _chat(result: dict[str, Any]) -> Iterator[str]:
    compared, what = result["measured"], result["what"].removeprefix("a consultation with ")
    equal = ", all equal" if all(result["same_answers"]) else ""
    yield _row(f"`chat`: 4 turns, {what}{equal}", _seconds(compared), compared)
    yield _row(
        f"its {FOLLOW_UP.replace('token', 'tokens')}", _seconds(compared, FOLLOW_UP), compared, FOLLOW_UP
    )


def _decode(result: dict[str, Any]) -> Iterator[str]:
    for row in result["rows"]:
        tokens = row["tokens_per_second"]
        rates = f"{tokens['ours']:.3g} and {tokens[BASELINE]:.3g} tokens/s"
        equal = f"{row['equal_answers']} of {row['conversations']} answers equal"
        yield _row(f"`decode`: {row['conversations']} at once, {equal}", rates, row["measured"])


PAIRS: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "train": _train, "scoring": _scoring, "chat": _chat, "chat_160": _chat, "chat_bfloat16": _chat, "decode": _decode,
}  # fmt: skip


def measured_at(result: dict[str, Any]) -> str:
    """Where and at which commit, e.g. ``fp32, 2 cores of an AMD EPYC, 1512666``."""
    dtype = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[result["dtype"]]
    hardware, (commit, _, changes) = result["hardware"], result["commit"].partition("+")
    cpu = hardware["cpu"].replace("(R)", "").removesuffix(" Processor")
    return f"{dtype}, {hardware['cores']} cores, {cpu}, {commit[:7]}{'+' * bool(changes)}{changes}"


def pairs_table() -> str:
    """Markdown: every comparison with the original's way that is on file."""
    lines = [HEAD, "|---|---|---|---|---|---|"]
    for name, rows in PAIRS.items():
        path = RESULTS / f"{name}.json"
        if not path.is_file():
            lines.append(f"| `{name.partition('_')[0]}` | not measured | | | | |")
            continue
        result = json.loads(path.read_text(encoding="utf-8"))
        lines += [f"{row} {measured_at(result)} |" for row in rows(result)]
    return "\n".join(lines)


def serving_table(result: dict[str, Any]) -> str:
    """Markdown: several users decoded together, against one answer at a time."""
    lines = [
        "| users | tokens/s | mean seconds to the first token | longest | total time |",
        "|---|---|---|---|---|",
    ]
    for users in result["users"]:
        compared = users["measured"]
        ratio = compared["ratios"][SECONDS]
        first, longest = (
            " against ".join(
                f"{statistics.mean(compared[side][f'{which} seconds to first token']):.2f}"
                for side in ("ours", BASELINE)
            )
            for which in ("mean", "longest")
        )
        tokens = " against ".join(f"{users[side]['tokens_per_second']:.1f}" for side in ("ours", BASELINE))
        spread = f"{ratio['median']:.2f} x ({ratio['minimum']:.2f} to {ratio['maximum']:.2f})"
        lines.append(f"| {users['num_users']} | {tokens} | {first} | {longest} | {spread} |")
    return "\n".join(lines)
