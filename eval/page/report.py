"""Reads a run's folder, measures it and writes `results.json`, the report (page and PDF) and its appendix into it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.asking.answers import CASES, Run, read_run
from eval.measures.comparing.trainings import check_groups, measure_groups, parse_groups
from eval.measures.intervals import Line, best_class, having
from eval.measures.results import RESULTS, ReportError, first_arm, measure_run, run_lines
from eval.page import html
from eval.page.appendix import write_appendix
from eval.page.data import Report
from eval.page.document import document
from eval.page.pdf import write_pdf
from eval.rating.ratings import Rating, read_ratings
from eval.rating.study import participation
from eval.rating.summary import summary as rating_summary
from skingpt4.support.files import file_sha256, write_text
from skingpt4.support.parse import ParseError, parse_json
from skingpt4.taxonomy.published import published

PAGE, RATINGS, APPENDIX = "report.html", "ratings.csv", "appendix.pdf"


def write_report(
    run_dir: Path | str,
    cases_path: Path | str | None = None,
    ratings_path: Path | str | None = None,
    chosen: Sequence[str] = (),
    groups: Sequence[str] = (),
    with_pictures: bool = True,
    appendix: bool = False,
) -> Path:
    """Brings `results.json` up to date and writes `<run_dir>/report.html`, one file that loads nothing, and a PDF.

    Args:
        run_dir: folder with `answers/` and, if there are any, the logs of both steps.
        cases_path: manifest of the cases, to whose folder the pictures' paths are relative; None takes the one that
            the run was made with.
        ratings_path: CSV of ratings; None takes `<run_dir>/ratings.csv` where there is one.
        chosen: ids of the cases whose answers are shown side by side; none takes some by rule.
        groups: trainings of one recipe that count as one arm, as `parse_groups` reads them.
        with_pictures: False leaves the photographs out of all files.
        appendix: also write `appendix.pdf` with all cases and complete answers.

    Returns:
        The path of the page; the PDFs stand beside it.

    Raises:
        AnswersError: no folder, no answers, or a damaged file of answers.
        GroupError: a group of trainings cannot be formed.
        ReportError: something else is missing or malformed; the message names the file and the line.
        RatingsError: the ratings cannot be used.
    """
    run_dir = Path(run_dir)
    cases_path, ratings_path = (None if path is None else Path(path) for path in (cases_path, ratings_path))
    run = read_run(run_dir)
    arms = run_lines(run)
    answered = {line["case_id"] for lines in arms.values() for line in lines}
    for name in chosen:
        if name not in answered:
            raise ReportError(f"{run_dir}: no arm has an answered case {name!r} to be shown")
    recipes = parse_groups(groups, list(arms))
    check_groups(recipes, {name: run.arms[name].meta for name in arms})
    cases = [case for _, case in read_jsonl(cases_path or run_dir / CASES)]
    results = measure_run(run, arms)
    results["provenance"]["files"] = {"sha256 of the run's cases": file_sha256(run_dir / CASES)}
    if recipes:
        results["trainings"] = measure_groups(recipes, arms)
    ratings = _add_ratings(run, ratings_path, results)
    write_text(run_dir / RESULTS, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    rendered = [str(case.get("source", "")).lower().startswith("phantom") for case in cases]
    report = Report(
        name=run_dir.resolve().name,
        arms=arms,
        results=results,
        losses=load_losses(run_dir),
        image_dir=_image_dir(run, cases_path),
        phantoms="all" if rendered and all(rendered) else "some" if any(rendered) else "none",
        notes=_notes(run, arms, len(cases)),
        answers=run,
        ratings=ratings,
        printed=published(),
        chosen=tuple(dict.fromkeys(chosen)),
        with_pictures=with_pictures,
        groups=recipes,
    )
    content = document(report)
    path = run_dir / PAGE
    write_text(path, html.page(content))
    write_pdf(content, path.with_suffix(".pdf"))
    if appendix:
        write_appendix(report, run_dir / APPENDIX)
    return path


def _add_ratings(run: Run, path: Path | None, results: dict[str, Any]) -> list[Rating]:
    """Adds what the ratings say to the results; `ratings.csv` in the run's folder is used where no file is named.

    Raises:
        RatingsError, StoreError: the file, or that of the review in the run's folder, cannot be used.
        ReportError: it holds no rating of this run.
    """
    default = run.folder / RATINGS
    path = path or (default if default.is_file() else None)
    if path is None:
        return []
    every = read_ratings(path)
    ratings = [rating for rating in every if rating.case_id in run.cases and rating.arm in results["arms"]]
    if not ratings:
        raise ReportError(f"{path}: none of its {len(every)} rows is about a case and an arm of {run.folder}")
    urgencies = {name: case["urgency"] for name, case in run.cases.items() if case.get("urgency")}
    results["ratings"] = rating_summary(ratings, first_arm(run, results["arms"]), urgencies=urgencies)
    results["ratings"]["study"] = participation(run.folder, {rating.rater for rating in ratings})
    results["provenance"]["ratings"] = {
        "ratings": path.name,
        "ratings sha256": file_sha256(path),
        "ratings rows": len(every),
        "ratings rows of this run": len(ratings),
        "raters": results["ratings"]["raters"],
    }
    return ratings


def _image_dir(run: Run, cases_path: Path | None) -> Path:
    """The folder that the pictures' paths are relative to: that of the case list."""
    named = [arm.meta["cases"] for arm in run.arms.values() if arm.meta.get("cases")]
    return Path(cases_path or (named[0] if named else run.folder / CASES)).parent


def _notes(run: Run, arms: dict[str, list[Line]], num_listed: int) -> list[str]:
    """What a reader should know about the answers before reading the numbers."""
    notes = [
        f"{name} has answered no case completely and is left out; repeat the command that added it."
        for name in run.arms
        if name not in arms
    ]
    ids = {name: {line["case_id"] for line in lines} for name, lines in arms.items()}
    if len(set(map(frozenset, ids.values()))) > 1:
        counts = ", ".join(f"{name} {len(cases)}" for name, cases in ids.items())
        notes.append(f"The arms answered different cases ({counts}); comparisons use the shared ones.")
    num_answered = len(set.union(*ids.values()))
    if num_answered < num_listed:
        notes.append(f"The case list holds {num_listed} records, of which {num_answered} were answered.")
    for name, lines in arms.items():
        scored = having(lines, "class_scores")
        other = sum(line.get("predicted_class", best_class(line)) != best_class(line) for line in scored)
        if other:
            notes.append(
                f"{name}: in {other} cases predicted_class is not the best class score, which counts here."
            )
    return notes


def read_jsonl(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSON-lines file, each with its line number from 1; blank lines are skipped.

    Raises:
        ReportError: the file is missing or a line is not a JSON object, named by file and line number.
    """
    if not path.is_file():
        raise ReportError(f"{path}: no such file")
    rows = []
    for number, text in enumerate(
        path.read_text(encoding="utf-8").split("\n"), start=1
    ):  # nothing else ends a line
        if not text.strip():
            continue
        try:
            row = parse_json(text, file_names=True)
        except ParseError as error:
            raise ReportError(f"{path}:{number}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise ReportError(f"{path}:{number}: expected an object, found {type(row).__name__}")
        rows.append((number, row))
    return rows


def load_losses(run_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """The logged losses of all steps, of those that have a log.

    Raises:
        ReportError: a line is damaged.
    """
    logs = {}
    for step in ("align", "step1", "step2"):
        path = run_dir / step / "metrics.jsonl"
        if not path.is_file():
            continue
        rows = [
            (number, row) for number, row in read_jsonl(path) if row.get("kind") in ("train", "validation")
        ]
        for number, row in rows:
            for key in ("iteration", "loss"):
                if not isinstance(row.get(key), int | float):
                    raise ReportError(f"{path}:{number}: {key!r} is missing or not a number")
        if rows:
            logs[step] = [row for _, row in rows]
    return logs
