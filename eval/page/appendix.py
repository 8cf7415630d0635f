"""The appendix: every case with the complete answers of every arm, as the paper's supplement has them, as a PDF.

Cases are read, set and forgotten one after the other, so that hundreds of cases with many arms fit into memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from eval.page.data import Report
from eval.page.document import warning
from eval.page.parts import Case, Column, Text, plain
from eval.page.pdf import Writer, save
from eval.page.sections.arms import cards_parts, note_of
from eval.page.sections.gallery import HOW, answers_by_case, case_part
from eval.rating.questionnaire import ITEMS, ROLES
from skingpt4.support.pdf import Paper, quiet_fonts

ABOUT = (
    "Every case of the run with what each arm answered, complete and unchanged. Answers are texts of "
    "models or people: they can be wrong, and none of them is advice."
)


def write_appendix(report: Report, path: Path) -> None:
    """Write the appendix; the file appears complete or not at all."""
    paper = Paper(f"Appendix of {report.name}")
    by_case = answers_by_case(report)
    ratings = _ratings(report)
    with quiet_fonts():
        writer = Writer(paper)
        writer.heading(f"Appendix: all cases and answers of {report.name}", 1)
        writer.add([Text(warning(report), "warn"), Text(ABOUT), Text(HOW, "soft")])
        for unit in report.units():
            writer.text(f"•  {plain(unit)}: {note_of(report, unit) or report.kind(unit)}", 8.5)
        writer.heading("Arms", 2)
        writer.add(cards_parts(report)[:1])
        for name, answers in tqdm(by_case.items(), desc="appendix", unit="case"):
            _set(writer, case_part(report, answers, complete=True), ratings.get(name, {}))
        save(writer, path)


def _set(writer: Writer, case: Case, ratings: dict[str, str]) -> None:
    """One case on pages of its own."""
    writer.finish()
    writer.paper.add_page()
    writer.heading(f"{case.facts['case']}: {case.title}", 2)
    if case.picture:
        writer.cover(case.title, case.picture)
    else:
        writer.text(case.note, 7.5, soft=True)
    for name, value in case.facts.items():
        writer.text(f"{name}: {value}", 7.5)
    writer.heading("Class, concepts and single answers", 3)
    _columns(writer, case.answers.columns)
    for title, answers in case.conversation:
        writer.heading(title, 3)
        _columns(writer, answers.columns)
    if ratings:
        writer.heading("Ratings", 3)
        for who, text in ratings.items():
            writer.text(f"{who}: {text}", 7.5)


def _columns(writer: Writer, columns: Sequence[Column]) -> None:
    """The arms one below the other: complete answers are longer than a column is wide."""
    for column in columns:
        writer.heading(column.title, 5)
        writer.text("   ·   ".join("".join(span.text for span in line.spans) for line in column.lines), 8)


def _ratings(report: Report) -> dict[str, dict[str, str]]:
    """Case -> arm and role -> what its raters said, item by item."""
    said: dict[str, dict[str, dict[str, list[str]]]] = {}
    for rating in report.ratings:
        if rating.item in ITEMS:
            who = f"{plain(rating.arm)}, {ROLES[rating.role]}s" if rating.role else plain(rating.arm)
            items = said.setdefault(rating.case_id, {}).setdefault(who, {})
            items.setdefault(rating.item, []).append(rating.value)
    return {
        case: {
            who: "; ".join(f"{plain(item)} {' '.join(values)}" for item, values in items.items())
            for who, items in by_who.items()
        }
        for case, by_who in said.items()
    }
