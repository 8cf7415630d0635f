"""The section about where the numbers come from: the facts of the run, its arms, the ratings and the software."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from eval.page.data import Report
from eval.page.parts import Part, Table, plain


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested facts as one level, `a.b` for b inside a; lists as JSON."""
    facts: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            facts.update(_flat(value, f"{prefix}{key}."))
        else:
            facts[prefix + key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return facts


def provenance_parts(report: Report) -> list[Part]:
    """The facts of the run, of each arm, of the ratings and of the software, one row each."""
    results = report.results
    rows: list[tuple[str, str]] = [("cases", str(results["num_cases"]))]
    for key, title, form in (
        ("seconds", "duration", "{:.0f} s"),
        ("peak_memory_gb", "peak memory", "{:.2f} GB"),
    ):
        if results[key] is not None:
            rows.append((title, form.format(results[key])))
    rows += _flat(results["provenance"]["run"]).items()
    by_arm = {arm: _flat(meta) for arm, meta in results["provenance"]["arms"].items()}
    for arm, lines in report.arms.items():
        times = [line["seconds"] for line in lines if isinstance(line.get("seconds"), int | float)]
        if times:
            by_arm[arm]["median seconds per case"] = f"{np.median(times):.2f}"
    for key in dict.fromkeys(key for meta in by_arm.values() for key in meta):
        values = {arm: meta[key] for arm, meta in by_arm.items() if key in meta}
        same = len(values) == len(by_arm) and len(set(values.values())) == 1
        each = (
            [next(iter(values.values()))]
            if same
            else [f"{plain(arm)}: {text}" for arm, text in values.items()]
        )
        rows.append((key, "\n".join(each)))
    for name in ("files", "ratings", "statistics"):
        rows += _flat(results["provenance"].get(name, {})).items()
    caption = "Where the numbers come from; one value where all arms share it"
    return [Table(caption, ["fact", "value"], [[plain(key), text] for key, text in rows], "code")]
