"""All counts as text and as CSV, with the paper's tables beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from data.counting.against_paper import Comparison, compare_classes, compare_concepts
from data.counting.counts import DIMENSIONS, Counts
from skingpt4.support.spreadsheets import csv_text

HEADINGS = {"concept": "Concepts", "class": "Classes", "source": "Sources", "split": "Splits",
            "fitzpatrick": "Fitzpatrick types (12, 34, 56: DDI's pairs)"}  # fmt: skip


def compare(counts: Counts) -> dict[str, Comparison]:
    """The paper's tables that can be compared with the counts, by dimension."""
    both = {"concept": compare_concepts(counts), "class": compare_classes(counts)}
    return {name: comparison for name, comparison in both.items() if comparison is not None}


def text_report(counts: Counts, comparisons: dict[str, Comparison]) -> str:
    """All counts for the terminal."""
    lines = [f"{sum(counts.records.values()):,} records"]
    known = sum(counts.with_concepts.values())
    if known:
        lines[0] += f", {known:,} with known concepts"
    for name in DIMENSIONS:
        if name in comparisons:
            lines += ["", *_compared(comparisons[name])]
        elif rows := counts.total(name):
            lines += [
                "",
                HEADINGS[name],
                *_columns([[f"  {key}", f"{count:,}"] for key, count in rows.items()]),
            ]
    if counts.facts:
        facts = [[f"  {source}: {name}", f"{value:,}"] for (source, name), value in counts.facts.items()]
        lines += ["", "Of the tables", *_columns(facts)]
    return "\n".join(lines)


def _compared(comparison: Comparison) -> Iterator[str]:
    yield f"{comparison.title}: {comparison.basis}"
    rows = [["  ", "here", "paper", "difference", ""]]
    for row in comparison.rows:
        difference = "" if row.difference is None else f"{row.difference:+,}" if row.difference else "0"
        paper = "" if row.paper is None else f"{row.paper:,}"
        rows.append([f"  {row.name}", f"{row.ours:,}", paper, difference, row.why])
    yield from _columns(rows)
    for remark in comparison.remarks:
        yield f"  - {remark}"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as aligned text: the first and fifth column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            text.ljust(width) if column in (0, 4) else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def csv_table(counts: Counts, comparisons: dict[str, Comparison]) -> str:
    """All counts as CSV; `paper`, `difference` and `why` are empty where the paper prints nothing."""
    return csv_text(
        ["dimension", "source", "name", "count", "paper", "difference", "why"], _csv_rows(counts, comparisons)
    )


def _csv_rows(counts: Counts, comparisons: dict[str, Comparison]) -> Iterator[list[Any]]:
    for name, comparison in comparisons.items():
        for row in comparison.rows:
            paper, difference = ("" if x is None else x for x in (row.paper, row.difference))
            yield [f"{name} against paper", "", row.name, row.ours, paper, difference, row.why]
    for name in DIMENSIONS:
        for value, count in counts.total(name).items():
            yield [name, "", value, count, "", "", ""]
        if name != "source" and len(counts.records) > 1:
            for (source, value), count in sorted(counts.of[name].items()):
                yield [name, source, value, count, "", "", ""]
    for (source, fact), count in counts.facts.items():
        yield ["fact", source, fact, count, "", "", ""]
