"""Parts that every section of the page is made of: a table, a figure with its caption, a share with its interval."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from eval.measures.intervals import Interval, Line
from eval.page.figures import escape, plain


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "number") -> str:
    """A table whose first column heads its rows. Cells are HTML already; caption and head are text.

    `kind` is "number" for cells that stay on one line, "words" for those that may wrap.
    """
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head).replace("top-1", "top\u20111")
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f'<td class="{kind}">{c}</td>' for c in rest) + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def figure(svg: str, caption: str, wide: bool = False) -> str:
    """A drawing over its caption; a wide one scrolls by itself on a phone."""
    region = f' tabindex="0" role="region" aria-label="{escape(caption)}"'
    body = f'<div class="scroll"{region}>{svg}</div>' if wide else svg
    return f"<figure{' class=wide' if wide else ''}>{body}<figcaption>{escape(caption)}</figcaption></figure>"


def cell(interval: Interval) -> str:
    """Share over interval; n stands in a column of its own."""
    share, rest = interval.text().split(" (", 1)
    return f"{escape(share)} <small>{escape(rest.split(',')[0])}</small>"


def paragraph(text: str, soft: bool = False) -> str:
    """Text, made safe, as a paragraph."""
    return f"<p{' class=soft' if soft else ''}>{escape(text)}</p>"


def details(summary: str, body: str) -> str:
    """What is there for those who ask; `body` is HTML already."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def number(value: float | None, digits: int = 2) -> str:
    """A coefficient for reading; what is not defined reads as a dash."""
    return (
        "–"
        if value is None or value != value
        else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")
    )


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
