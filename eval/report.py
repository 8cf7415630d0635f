"""A run folder into `results.json`, a table for the terminal, one self-contained `report.html` and `report.pdf`.

    python -m eval.report --run-dir runs/quickstart [--ratings ratings.csv] [--cases path/to/manifest.jsonl]
        [--show CASE ...]

`eval.asking.answers` says what a run's folder holds. Cases whose concepts are unknown take no part in the measures of
concepts.

`answers/<arm>.meta.json` (where an arm's answers come from) and the losses in `step1/metrics.jsonl` and
`step2/metrics.jsonl` are optional.
"""

import argparse
import json
import math
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.asking.answers import CASES, case_lines, read_run
from eval.asking.answers import Run as Answers
from eval.measures.arm import measure_arm, statistics
from eval.measures.comparisons import compare_all
from eval.measures.consistency import consistency
from eval.measures.intervals import Interval, Line, best_class, text_outcomes
from eval.page.document import MEASURES, Run, render
from eval.page.pdf import write_pdf
from eval.rating.ratings import Rating, read_csv
from eval.rating.summary import summary as rating_summary
from skingpt4.support.errors import UserError, reported
from skingpt4.support.files import file_sha256, write_text
from skingpt4.taxonomy.published import published

FIRST = "two_step"  # the arm that the others are compared with
ARMS = (FIRST, "step1_only", "step2_only", "untrained", "blank_image", "noise_image", "other_image")


def load_answers(run_dir: Path) -> dict[str, list[Line]]:
    """The greedy answers of every arm found, in order of display; see `eval.asking.answers.case_lines`.

    Raises:
        AnswersError: no folder, no answers, or a damaged file.
        ReportError: no case is answered to the end, or a score is no number.
    """
    return _case_lines(read_run(run_dir))


def _case_lines(run: Answers) -> dict[str, list[Line]]:
    run_dir = run.folder
    names = [arm for arm in ARMS if arm in run.arms] + [arm for arm in run.arms if arm not in ARMS]
    arms = {name: case_lines(run, run.arms[name]) for name in names}
    for name, lines in arms.items():
        if not lines:
            raise ReportError(f"{run_dir}: arm {name} has answered no case to the end; run eval.run again")
        for line in lines:
            for each, score in line["class_scores"].items():
                # A score that is not a number would win or lose every comparison unnoticed.
                if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                    raise ReportError(
                        f"{run_dir}: arm {name}, case {line['case_id']!r}: the class score of {each!r} is not a "
                        f"finite number: {score!r}"
                    )
            if line["class"] not in line["class_scores"]:
                raise ReportError(
                    f"{run_dir}: arm {name}, case {line['case_id']!r}: the true class {line['class']!r} has no score"
                )
    return arms


def write_results(
    run_dir: Path | str,
    seconds: float | None = None,
    peak_memory_gb: float | None = None,
    provenance: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Computes every measure of every arm present and writes `<run_dir>/results.json`.

    Args:
        run_dir: folder with `answers/`.
        seconds: duration of the whole run; None keeps what the file already says.
        peak_memory_gb: highest memory of the run; None keeps what the file already says.
        provenance: facts about the run, such as its commands; added to those already in the file.

    Returns:
        What was written; docs/evaluation.md says what stands where.
    """
    run_dir = Path(run_dir)
    run = read_run(run_dir)
    arms = _case_lines(run)
    before = read_json(run_dir / "results.json")
    pairs = compare_all(arms)
    for other in [name for name in arms if name != FIRST] if FIRST in arms else []:
        if f"{FIRST}_minus_{other}" not in pairs:
            raise ReportError(f"{run_dir}: {FIRST} against {other}: the two arms share no case")
    results = {
        "num_cases": len({line["case_id"] for lines in arms.values() for line in lines}),
        "seconds": before.get("seconds") if seconds is None else seconds,
        "peak_memory_gb": before.get("peak_memory_gb") if peak_memory_gb is None else peak_memory_gb,
        "arms": {name: measure_arm(run.arms[name], lines) for name, lines in arms.items()},
        "text_outcomes": {name: text_outcomes(lines) for name, lines in arms.items()},
        "comparisons": _planned(pairs),
        "pairs": pairs,
        "consistency": consistency(run),
        "provenance": {
            "run": {**before.get("provenance", {}).get("run", {}), **(provenance or {})},
            "arms": {name: read_json(run_dir / "answers" / f"{name}.meta.json") for name in arms},
            "statistics": {**statistics(), "python": platform.python_version()},
        },
    }
    write_text(
        run_dir / "results.json", json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    )
    return results


def _planned(pairs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of all pairs those of the two-step arm with another, as page and headline show them."""
    planned = {name: pair for name, pair in pairs.items() if name.startswith(f"{FIRST}_minus_")}
    return {
        name: {
            measure: {"mcnemar_p" if key == "p" and measure == "top1" else key: x for key, x in entry.items()}
            for measure, entry in pair.items()
        }
        for name, pair in planned.items()
    }


def headline(results: dict[str, Any]) -> str:
    """The arms and their intervals as a text table for the terminal."""
    rows = [["arm", *MEASURES.values()]]
    for name, summary in results["arms"].items():
        found = [summary.get(measure) for measure in MEASURES]
        rows.append([name, *(Interval.from_dict(data).text() if data else "not annotated" for data in found)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    for name, comparison in results["comparisons"].items():
        said = f"{name}: top-1 {Interval.from_dict(comparison['top1']).points()}"
        said += f", McNemar p = {comparison['top1']['mcnemar_p']:.3g}"
        if "concept_micro_f1" in comparison:
            said += f"; concept F1 {Interval.from_dict(comparison['concept_micro_f1']).points()}"
        lines.append(said)
    return "\n".join(line.rstrip() for line in lines)


def _notes(arms: dict[str, list[Line]], num_listed: int) -> list[str]:
    """What a reader should know about the answers before reading the numbers."""
    notes = []
    ids = {name: {line["case_id"] for line in lines} for name, lines in arms.items()}
    if len(set(map(frozenset, ids.values()))) > 1:
        counts = ", ".join(f"{name} {len(cases)}" for name, cases in ids.items())
        notes.append(f"The arms answered different cases ({counts}); comparisons use the shared ones.")
    answered = len(set.union(*ids.values()))
    if answered < num_listed:
        notes.append(f"The case list holds {num_listed} records, of which {answered} were answered.")
    for name, lines in arms.items():
        other = sum(line.get("predicted_class", best_class(line)) != best_class(line) for line in lines)
        if other:
            notes.append(
                f"{name}: in {other} cases predicted_class is not the best class score, which counts here."
            )
    return notes


def _image_dir(run: Answers, cases_path: Path | None) -> Path:
    """The folder that the pictures' paths are relative to: that of the case list."""
    named = [meta["cases"] for meta in (arm.meta for arm in run.arms.values()) if meta.get("cases")]
    return Path(cases_path or (named[0] if named else run.folder / "cases.jsonl")).parent


def _add_ratings(run_dir: Path, path: Path | None, results: dict[str, Any], known: set[str]) -> list[Rating]:
    """Puts what the ratings say into the results; `<run_dir>/ratings.csv` is used where no file is named.

    Raises:
        RatingsError: the file is none.
        ReportError: it holds no rating of this run.
    """
    path = path or (run_dir / "ratings.csv" if (run_dir / "ratings.csv").is_file() else None)
    if path is None:
        return []
    every = read_csv(path)
    ratings = [rating for rating in every if rating.case_id in known and rating.arm in results["arms"]]
    if not ratings:
        raise ReportError(f"{path}: none of its {len(every)} rows is about a case and an arm of {run_dir}")
    results["ratings"] = rating_summary(ratings)
    results["provenance"]["ratings"] = {
        "ratings": path.name,
        "ratings sha256": file_sha256(path),
        "ratings rows": len(every),
        "ratings rows of this run": len(ratings),
        "raters": results["ratings"]["raters"],
    }
    return ratings


def write_report(
    run_dir: Path | str,
    cases_path: Path | str | None = None,
    ratings_path: Path | str | None = None,
    chosen: Sequence[str] = (),
) -> Path:
    """Brings `results.json` up to date and writes `<run_dir>/report.html`, one file without outside parts, and a PDF.

    Args:
        run_dir: folder with `answers/` and, if there are any, the logs of both steps.
        cases_path: manifest of the cases, to whose folder the pictures' paths are relative; None takes the one that
            the run was made with.
        ratings_path: CSV of ratings; None takes `<run_dir>/ratings.csv` where there is one.
        chosen: ids of the cases whose answers are shown arm beside arm; none takes some by rule.

    Returns:
        The path of the page; the PDF stands beside it.

    Raises:
        ReportError: when something is missing or malformed; the message names the file and the line.
        RatingsError: when the ratings cannot be used.
    """
    run_dir = Path(run_dir)
    cases_path, ratings_path = (None if path is None else Path(path) for path in (cases_path, ratings_path))
    arms, answers = load_answers(run_dir), read_run(run_dir)
    leading, lines = next(iter(arms.items()))
    for name in chosen:
        if name not in {line["case_id"] for line in lines}:
            raise ReportError(f"{run_dir}: arm {leading} has no answered case {name!r} to be shown")
    cases = read_jsonl(cases_path or run_dir / CASES)
    results = write_results(run_dir)
    results["provenance"]["files"] = {"sha256 of the run's cases": file_sha256(run_dir / CASES)}
    ratings = _add_ratings(run_dir, ratings_path, results, set(answers.cases))
    write_text(run_dir / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    drawn = [str(case.get("source", "")).lower().startswith("phantom") for case in cases]
    run = Run(
        name=run_dir.resolve().name,
        arms=arms,
        results=results,
        losses=load_losses(run_dir),
        image_dir=_image_dir(answers, cases_path),
        phantoms="all" if drawn and all(drawn) else "some" if any(drawn) else "none",
        notes=_notes(arms, len(cases)),
        answers=answers,
        ratings=ratings,
        printed=published(),
        chosen=tuple(dict.fromkeys(chosen)),
    )
    path, page = run_dir / "report.html", render(run)
    write_text(path, page)
    write_pdf(page, run_dir / "report.pdf")
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the files and prints the headline; returns the exit status."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m eval.report",
        description=f"{__doc__}\nResearch software, not a medical device.",
        formatter_class=raw,
    )
    parser.add_argument("--run-dir", type=Path, required=True, help="folder with answers/<arm>.jsonl")
    parser.add_argument(
        "--ratings", type=Path, help="CSV of eval.review (default: RUN/ratings.csv if it is there)"
    )
    parser.add_argument(
        "--cases", type=Path, help="manifest.jsonl of the cases (default: the one of the run)"
    )
    parser.add_argument("--show", nargs="+", default=(), metavar="CASE",
        help="ids of the cases whose answers are shown arm beside arm (default: 12 by rule)")  # fmt: skip
    arguments = parser.parse_args(argv)
    with reported() as status:
        try:
            path = write_report(arguments.run_dir, arguments.cases, arguments.ratings, arguments.show)
        except OSError as error:
            raise ReportError(str(error)) from error
        print(headline(read_json(arguments.run_dir / "results.json")))
        print(f"report: {path} and {path.with_suffix('.pdf')}")
    return status.code


class ReportError(UserError):
    """Something about the run folder that its owner can mend; the message says what and where."""


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; blank lines are skipped.

    Raises:
        ReportError: when the file is missing or a line is no JSON object, named by file and line number.
    """
    if not path.is_file():
        raise ReportError(f"{path}: no such file")
    rows = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise ReportError(f"{path}:{number}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise ReportError(f"{path}:{number}: expected an object, found {type(row).__name__}")
        # Kept for the messages of later checks; no field of the file can have this name by accident.
        rows.append({**row, "__line__": number})
    return rows


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is no such file."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ReportError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(data, dict):
        raise ReportError(f"{path}: expected an object, found {type(data).__name__}")
    return data


def load_losses(run_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """The logged losses of both steps, of those that have a log.

    Raises:
        ReportError: a line is damaged.
    """
    logs = {}
    for step in ("step1", "step2"):
        path = run_dir / step / "metrics.jsonl"
        if not path.is_file():
            continue
        rows = [row for row in read_jsonl(path) if row.get("kind") in ("train", "validation")]
        for row in rows:
            for key in ("iteration", "loss"):
                if not isinstance(row.get(key), int | float):
                    raise ReportError(f"{path}:{row['__line__']}: {key!r} is missing or not a number")
        if rows:
            logs[step] = rows
    return logs


if __name__ == "__main__":
    sys.exit(main())
