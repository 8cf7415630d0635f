"""Where the numbers of a report come from: facts about the run as one table."""

import json
from typing import Any

import numpy as np

from eval.figures import escape, plain
from eval.metrics import Line


def flat(data: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested facts as one level, `a.b` for b inside a; lists as JSON."""
    found: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return found


def provenance(results: dict[str, Any], arms: dict[str, list[Line]]) -> str:
    """The facts of the run, of each arm, of the ratings and of the software, one row each."""
    rows: list[tuple[str, str]] = [("cases", str(results["num_cases"]))]
    for key, title, form in (
        ("seconds", "duration", "{:.0f} s"),
        ("peak_memory_gb", "peak memory", "{:.2f} GB"),
    ):
        if results[key] is not None:
            rows.append((title, form.format(results[key])))
    rows += flat(results["provenance"]["run"]).items()
    facts = {arm: flat(meta) for arm, meta in results["provenance"]["arms"].items()}
    for arm, lines in arms.items():
        times = [line["seconds"] for line in lines if isinstance(line.get("seconds"), int | float)]
        if times:
            facts[arm]["median seconds per case"] = f"{np.median(times):.2f}"
    for key in dict.fromkeys(key for meta in facts.values() for key in meta):
        values = {arm: meta[key] for arm, meta in facts.items() if key in meta}
        same = len(values) == len(facts) and len(set(values.values())) == 1
        text = (
            next(iter(values.values())) if same else "\n".join(f"{plain(a)}: {v}" for a, v in values.items())
        )
        rows.append((key, text))
    for part in ("files", "ratings", "statistics"):
        rows += flat(results["provenance"].get(part, {})).items()
    body = "".join(
        f'<tr><th scope="row">{escape(plain(key))}</th>'
        f"<td>{'<br>'.join(f'<code>{escape(part)}</code>' for part in text.split(chr(10)))}</td></tr>"
        for key, text in rows
    )
    head = '<thead><tr><th scope="col">fact</th><th scope="col">value</th></tr></thead>'
    caption = "<caption>Where the numbers come from; one value where all arms share it</caption>"
    return f'<div class="scroll"><table>{caption}{head}<tbody>{body}</tbody></table></div>'
