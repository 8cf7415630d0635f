"""All measures of a run as `results.json` holds them; docs/evaluation.md says what stands where."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eval.asking.answers import FOLDER, ArmAnswers, Run, case_lines, kind_of, read_run
from eval.measures.by_task.table import add_task, task_text
from eval.measures.calibration import calibration
from eval.measures.classification import by_likelihood, by_text
from eval.measures.comparing.arms import compare_all
from eval.measures.comparing.groups import by_groups
from eval.measures.concepts import hallucinations, named_concepts, scored_concepts
from eval.measures.consistency import consistency
from eval.measures.intervals import RESAMPLES, Interval, Line, arm_summary, has_choice, having, text_outcomes
from eval.measures.texts import different_answers, on_topic, text_statistics
from skingpt4.support.errors import UserError, reason_of
from skingpt4.support.files import write_text
from skingpt4.support.parse import ParseError, read_json_object

RESULTS = "results.json"
FIRST = "two_step"  # the arm that the others are compared with
TRAINED, CONTROLS = (
    (FIRST, "step1_only", "step2_only"),
    ("untrained", "blank_image", "noise_image", "other_image"),
)
HEADLINE = {
    "top1": "class top-1",
    "top3": "class in top 3",
    "top1_text": "class in text",
    "concept_micro_f1": "concept F1",
}
LIBRARIES = ("numpy", "scipy", "scikit-learn", "statsmodels")


class ReportError(UserError):
    """Something about the run folder that its owner can fix; the message says what and where."""


def run_lines(run: Run) -> dict[str, list[Line]]:
    """The greedy answers of every arm, in order of display; see `eval.asking.answers.case_lines`.

    Arms of other systems that have not answered a complete case yet are left out.

    Raises:
        ReportError: no arm answered a case completely, one of ours did not, or a score is not a number.
    """
    arms = {name: case_lines(run, run.arms[name]) for name in _in_order(run)}
    for name in [name for name, lines in arms.items() if not lines]:
        if len(arms) > 1 and kind_of(run.arms[name].meta) != "projection":
            del arms[name]
        else:
            raise ReportError(f"{run.folder}: arm {name} has no completely answered case; run eval.run again")
    for name, lines in arms.items():
        for line in having(lines, "class_scores"):
            _check_scores(line, f"{run.folder}: arm {name}, case {line['case_id']!r}")
    return arms


def _in_order(run: Run) -> list[str]:
    """Our trained arms, then the others; the controls come last where there are arms of other systems."""
    others = [arm for arm in run.arms if arm not in (*TRAINED, *CONTROLS)]
    foreign = any(kind_of(arm.meta) != "projection" for arm in run.arms.values())
    order = (*TRAINED, *others, *CONTROLS) if foreign else (*TRAINED, *CONTROLS, *others)
    return [arm for arm in order if arm in run.arms]


def first_arm(run: Run, arms: Mapping[str, Any]) -> str:
    """The arm that the others are compared with: two_step, or the first where arms of other systems take part."""
    foreign = any(kind_of(run.arms[name].meta) != "projection" for name in arms)
    return next(iter(arms)) if foreign else FIRST


def _check_scores(line: Line, where: str) -> None:
    for name, score in line["class_scores"].items():
        # A score that is not a number would win or lose every comparison unnoticed.
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise ReportError(f"{where}: the class score of {name!r} is not a finite number: {score!r}")
    if line["class"] not in line["class_scores"]:
        raise ReportError(f"{where}: the true class {line['class']!r} has no score")


def measure_arm(run: Run, arm: ArmAnswers, lines: Sequence[Line]) -> dict[str, Any]:
    """Every measure of one arm; what it was not asked is missing.

    Args:
        run: whose task names classes and concepts.
        arm: all its answers, for the statistics of texts.
        lines: its greedy, unchanged answers, one a case (`eval.asking.answers.case_lines`).
    """
    measured: dict[str, Any] = arm_summary(lines)
    if chosen := [line for line in lines if has_choice(line)]:
        measured["class"] = by_likelihood(chosen, run.task.classes)
    if scored := having(lines, "class_scores"):
        measured["calibration"] = calibration(scored)
    if answered := having(lines, "text_class"):
        measured["text"] = by_text(answered, run.task.classes)
    if named := having(lines, "predicted_concepts"):
        measured["concepts"] = named_concepts(named, concepts=run.task.concepts)
        measured["hallucination"] = hallucinations(named, run.task.concepts)
    if differing := different_answers(arm):
        measured["different_answers"] = differing.to_dict()
    if about := on_topic(arm):
        measured["on_topic"] = about
    return measured | {
        "concepts_auroc": scored_concepts(lines),
        "groups": by_groups(lines),
        "answers": text_statistics(arm),
    }


def measure_run(
    run: Run,
    arms: dict[str, list[Line]],
    seconds: float | None = None,
    peak_memory_gb: float | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Every measure of every arm, with what an earlier `results.json` in the run's folder knows beside it.

    Args:
        run: its answers and cases.
        arms: of `run_lines`.
        seconds: duration of the complete run; None keeps what the file already says.
        peak_memory_gb: highest memory of the run; None keeps what the file already says.
        provenance: facts about the run, such as its commands; added to those already in the file.

    Returns:
        What `results.json` is to hold.

    Raises:
        ReportError: two arms that are to be compared share no case, or a file is damaged.
    """
    before = read_json(run.folder / RESULTS)
    pairs = compare_all(arms)
    ours = [name for name in arms if name != FIRST and kind_of(run.arms[name].meta) == "projection"]
    for other in ours if FIRST in arms else []:
        if f"{FIRST}_minus_{other}" not in pairs:
            raise ReportError(f"{run.folder}: {FIRST} against {other}: the two arms share no case")
    results: dict[str, Any] = {
        "num_cases": len({line["case_id"] for lines in arms.values() for line in lines}),
        "seconds": before.get("seconds") if seconds is None else seconds,
        "peak_memory_gb": before.get("peak_memory_gb") if peak_memory_gb is None else peak_memory_gb,
        "arms": {name: measure_arm(run, run.arms[name], lines) for name, lines in arms.items()},
        "text_outcomes": {
            name: text_outcomes(lines) for name, lines in arms.items() if having(lines, "text_class")
        },
        "comparisons": _with_first(pairs),
        "pairs": pairs,
        "consistency": consistency(run),
        "provenance": {
            "run": {**before.get("provenance", {}).get("run", {}), **(provenance or {})},
            "arms": {name: read_json(run.folder / FOLDER / f"{name}.meta.json") for name in arms},
            "statistics": _statistics(),
        },
    }
    add_task(run, results)
    return results


def write_results(
    run_dir: Path | str,
    seconds: float | None = None,
    peak_memory_gb: float | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes what `measure_run` says to `<run_dir>/results.json`, and returns it."""
    run = read_run(run_dir)
    results = measure_run(run, run_lines(run), seconds, peak_memory_gb, provenance)
    write_text(
        run.folder / RESULTS, json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    )
    return results


def _with_first(pairs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of all pairs those of the two-step arm with another, as page and headline show them."""
    return {
        name: {
            measure: {
                "mcnemar_p" if key == "p" and measure == "top1" else key: x for key, x in figure.items()
            }
            for measure, figure in pair.items()
        }
        for name, pair in pairs.items()
        if name.startswith(f"{FIRST}_minus_")
    }


def _statistics() -> dict[str, Any]:
    """How intervals and tests were computed, and with what."""
    return {
        "intervals": "95 %: Wilson for shares of cases, else a percentile bootstrap that draws whole cases",
        "bootstrap seed": 0,
        "bootstrap resamples": RESAMPLES,
        "tests between arms": "McNemar exact for shares, approximate randomisation for F1; two-sided",
        "tests between groups": f"permutation of cases between groups, {RESAMPLES} times",
        "multiplicity": "Holm over all pairs of arms for each measure; tests between groups are not corrected",
        "libraries": {name: version(name) for name in LIBRARIES},
        "python": platform.python_version(),
    }


def headline(results: dict[str, Any]) -> str:
    """The arms and their intervals as a text table for the terminal."""
    rows = [["arm", *HEADLINE.values()]]
    for name, summary in results["arms"].items():
        figures = [summary.get(measure) for measure in HEADLINE]
        rows.append([name, *(Interval.from_dict(f).text() if f else "not measured" for f in figures)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    for name, comparison in results["comparisons"].items():
        texts = []
        if figure := comparison.get("top1"):
            texts.append(
                f"top-1 {Interval.from_dict(figure).points()}, McNemar p = {figure['mcnemar_p']:.3g}"
            )
        for measure, words in (("top1_text", "class in text"), ("concept_micro_f1", "concept F1")):
            # Only what the terminal has room for: the class in text where no class was scored or chosen.
            if measure in comparison and not (measure == "top1_text" and texts):
                texts.append(f"{words} {Interval.from_dict(comparison[measure]).points()}")
        lines.append(f"{name}: {'; '.join(texts)}")
    if text := task_text(results):
        lines += ["", text]
    return "\n".join(line.rstrip() for line in lines)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is no such file.

    Raises:
        ReportError: the file holds something else.
    """
    if not path.is_file():
        return {}
    try:
        return read_json_object(path)
    except (OSError, ParseError) as error:
        raise ReportError(f"{path}: is not a JSON object ({reason_of(error)})") from error
