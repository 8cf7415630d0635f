"""The page of `eval.compare`: a table for each list of cases, with the reason for it; CSV and JSON beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from eval.measures.results import HEADLINE
from eval.page import html
from eval.page.compared import Entry, Table
from eval.page.figures.measures import arms_figure
from eval.page.parts import (
    Cell,
    Document,
    Figure,
    Part,
    Row,
    Section,
    Text,
    p_value,
    plain,
    points_cell,
    share_cell,
)
from eval.page.parts import Table as TablePart
from eval.page.sections.arms import KINDS, missing, version_of, why_missing
from skingpt4.support.files import write_text
from skingpt4.support.spreadsheets import csv_text

PAGE, CSV, JSON = "compare.html", "compare.csv", "compare.json"
WARNING = "Research software, not a medical device."
HOW = (
    "Sorted by {measure}; intervals are 95 % (Wilson; F1: bootstrap over cases). “Behind the first” is the first "
    "row minus this one on the cases that both answered, with a paired bootstrap; p is McNemar's exact test "
    "(F1: exchanges at random), corrected by Holm for the rows of the table. Overlapping intervals do not rank two "
    "arms: read the differences. A dash: not measured."
)


def write_leaderboard(tables: Sequence[Table], out: Path, measure: str) -> Path:
    """Write page, CSV and JSON into a folder; returns the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / PAGE, html.page(leaderboard(tables, measure)))
    write_text(out / CSV, as_csv(tables))
    content = {"sorted_by": measure, "tables": [table.to_dict() for table in tables]}
    write_text(out / JSON, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return out / PAGE


def leaderboard(tables: Sequence[Table], measure: str) -> Document:
    """The page as a list of parts."""
    sections = [
        Section(f"table-{number}", _title(table), _parts(table, tables[0], measure, number))
        for number, table in enumerate(tables)
    ]
    num_arms = sum(len(table.entries) for table in tables)
    num_runs = len({entry.run for table in tables for entry in table.entries})
    text = f"{num_arms} arms of {num_runs} run{'s' * (num_runs > 1)}, {len(tables)} table{'s' * (len(tables) > 1)}. "
    text += "Only arms that answered the same list of cases for the same task stand in one table."
    return Document("Leaderboard", [Text(WARNING, "warn"), Text(text, "lead")], sections)


def _title(table: Table) -> str:
    return f"{table.task}: {table.num_cases} cases ({table.cases_sha256[:8]})"


def _parts(table: Table, first: Table, measure: str, number: int) -> list[Part]:
    parts: list[Part] = []
    if table is not first:
        other_task = (table.task, table.task_sha256) != (first.task, first.task_sha256)
        reason = "another task" if other_task else "another list of cases"
        parts.append(Text(f"Apart from the first table, because this is {reason}."))
    rows = [_row(entry, table.entries[0], measure) for entry in table.entries]
    measures = _shown(table, measure)
    head = ["arm", "kind", *(HEADLINE[name] for name in measures), "n", "behind the first", "p, Holm"]
    cells: list[Row] = [
        [
            Cell(plain(entry.arm), (entry.run,)),
            _about(entry),
            *(_figure(entry, name) for name in measures),
            *rest,
        ]
        for entry, rest in zip(table.entries, rows, strict=True)
    ]
    parts.append(TablePart(f"Arms by {HEADLINE[measure]}", head, cells))
    drawn = {f"{plain(entry.arm)}\n{entry.run}": entry.measures for entry in table.entries}
    parts.append(Figure(arms_figure(drawn, None, f"arms-{number}"), "The same as points with intervals."))
    return [*parts, Text(HOW.format(measure=HEADLINE[measure]), "soft")]


def _shown(table: Table, measure: str) -> list[str]:
    """The measures for which the page has room; top 3 only where the table is sorted by it."""
    shown = [name for name in HEADLINE if any(name in entry.measures for entry in table.entries)]
    return [name for name in shown if name != "top3" or measure == "top3"]


def _about(entry: Entry) -> Cell:
    """Kind, model and the first letters of its hash or revision."""
    model = entry.meta.get("model") or entry.meta.get("language_model") or entry.meta.get("system") or ""
    version = (version_of(entry.meta) or "")[:12]
    small = tuple(text for text in (str(model).rsplit("/", 1)[-1], version) if text)
    return Cell(KINDS.get(entry.kind, entry.kind), small)


def _figure(entry: Entry, name: str) -> Cell:
    figure = entry.measures.get(name)
    return share_cell(figure) if figure else missing(why_missing(name, entry.lines))


def _row(entry: Entry, best: Entry, measure: str) -> list[Cell | str]:
    """n, distance from the first row and its p."""
    n = str(len(entry.lines))
    if entry is best:
        return [n, Cell("first"), ""]
    figure = entry.against_best.get(measure)
    if figure is None:
        return [n, missing("not comparable"), ""]
    return [n, points_cell(figure), p_value(figure["p_holm"])]


def as_csv(tables: Sequence[Table]) -> str:
    """One row an arm."""
    head = ["table", "task", "cases_sha256", "run", "arm", "kind", "model", "version", "closed_set"]
    parts = ("value", "low", "high", "n")
    head += [f"{name}_{part}" for name in HEADLINE for part in parts]
    rows = []
    for number, table in enumerate(tables, 1):
        for entry in table.entries:
            row = entry.to_dict()
            figures = [(row[name] or {}).get(part, "") for name in HEADLINE for part in parts]
            facts = [
                row[key] if row[key] is not None else ""
                for key in ("run", "arm", "kind", "model", "version", "closed_set")
            ]
            rows.append([number, table.task, table.cases_sha256, *facts, *figures])
    return csv_text(head, rows)
