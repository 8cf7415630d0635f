"""The section about response times (figure 4b): a stopwatch on the machine, and what it can be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import ttest_ind, wilcoxon

from eval.asking.answers import Run, kind_of
from eval.page.data import Report
from eval.page.figures.ratings import times_figure
from eval.page.parts import Figure, Part, Table, Text, p_equals, plain
from eval.rating.ratings import Rating

FEW_ARMS = 3  # whose times are all drawn
MEASURED = {
    "first token": "until the first token of the first answer",
    "first answer": "until the first answer is complete",
    "conversation": "all answers of the conversation",
}


def response_times(run: Run, arms: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Arm -> what (of MEASURED) -> case -> seconds, of the first repeat on unchanged pictures."""
    by_arm: dict[str, dict[str, dict[str, float]]] = {}
    for name in arms:
        arm = run.arms[name]
        num_prompts = len(arm.meta.get("prompts", ()))
        times: dict[str, dict[str, float]] = {what: {} for what in MEASURED}
        turns: dict[str, list[float]] = {}
        for answer in arm.of("turn"):
            fields, case = answer.fields, answer.key.case_id
            turns.setdefault(case, []).append(fields.get("seconds") or 0.0)
            if answer.key.number == 1:
                times["first token"][case] = fields.get("seconds_to_first_token") or 0.0
                times["first answer"][case] = fields.get("seconds") or 0.0
        if num_prompts > 1:
            times["conversation"] = {
                case: sum(each) for case, each in turns.items() if len(each) == num_prompts and all(each)
            }
        known = {what: {case: s for case, s in by_case.items() if s > 0} for what, by_case in times.items()}
        known = {what: by_case for what, by_case in known.items() if by_case}
        if known:
            by_arm[name] = known
    return by_arm


def doctors_times(ratings: Sequence[Rating]) -> dict[str, list[float]]:
    """Case -> seconds that raters took until their own diagnosis, each rater's first look at the case."""
    first: dict[tuple[str, str], tuple[str, float]] = {}
    for rating in ratings:
        if rating.item != "own_diagnosis":
            continue
        try:
            seconds = float(rating.seconds)
        except ValueError:
            continue
        key = (rating.case_id, rating.rater)
        if seconds > 0 and (key not in first or rating.time < first[key][0]):
            first[key] = (rating.time, seconds)
    by_case: dict[str, list[float]] = {}
    for (case, _), (_, seconds) in first.items():
        by_case.setdefault(case, []).append(seconds)
    return by_case


def times_parts(report: Report) -> list[Part]:
    """Box plots of every arm, their numbers, the tests that are possible, and what they cannot say."""
    run, arms, printed = report.answers, list(report.arms), report.printed
    times = response_times(run, arms)
    if not times:
        return [Text("The answers of this run carry no times.")]
    rows, seconds = [], {}
    imported = [arm for arm in times if kind_of(run.arms[arm].meta) == "import"]
    for arm, kinds in times.items():
        for what, by_case in kinds.items():
            words = f"{what}{', imported' if arm in imported else ''}"
            # Seven arms with three rows each are no figure any more: then each arm has its longest time alone.
            if len(times) <= FEW_ARMS or what == list(kinds)[-1]:
                seconds[f"{plain(arm)},\n{words}"] = list(by_case.values())
            rows.append(_row(f"{plain(arm)}, {words}", list(by_case.values())))
    doctors = doctors_times(report.ratings)
    if doctors:
        every = [second for each in doctors.values() for second in each]
        seconds["raters, own\ndiagnosis"] = every
        rows.append(_row("raters of this run, until their own diagnosis", every))
    published = printed.get("response_time", {})
    minutes = published.get("dermatologists_minutes", {}).get("approximate_range")
    band = (60.0 * minutes[0], 60.0 * minutes[1]) if minutes else None
    turns = [answer.fields for name in arms for answer in run.arms[name].of("turn")]
    together = max((fields.get("num_decoded_together", 0) for fields in turns), default=0)
    caption = "; ".join(f"{what}: {words}" for what, words in MEASURED.items()) + "."
    return [
        Figure(times_figure(seconds, band), caption),
        Table("Response times", ["what", "median s", "quartiles s", "5th to 95th s", "n"], rows),
        Text(_test(times, doctors)),
        *(Text(text) for arm in imported if (text := _against_imported(times, arm))),
        Text(_limits(together, published), "soft"),
    ]


def _row(words: str, values: Sequence[float]) -> list[str]:
    p5, p25, p50, p75, p95 = np.percentile(values, [5, 25, 50, 75, 95])
    return [words, f"{p50:.2f}", f"{p25:.2f} to {p75:.2f}", f"{p5:.2f} to {p95:.2f}", str(len(values))]


def _test(times: dict[str, dict[str, dict[str, float]]], doctors: dict[str, list[float]]) -> str:
    """The paper's test and one that fits better, where the run's raters were timed."""
    arm, kinds = next(iter(times.items()))
    machine = kinds.get("conversation") or next(iter(kinds.values()))
    shared = [case for case in machine if case in doctors]
    if len(shared) < 6:
        return (
            "No test: it needs the raters' own times case by case (eval.review records them), and the "
            "paper prints only ranges of 20 self-reported values."
        )
    own = np.array([machine[case] for case in shared])
    theirs = np.array([np.median(doctors[case]) for case in shared])
    student = ttest_ind(own, theirs)
    paired = wilcoxon(own, theirs)
    faster = int((own < theirs).sum())
    return (
        f"{plain(arm).capitalize()} was the faster one in {faster} of {len(shared)} cases (raters: median "
        "over them). The paper's test, a two-tailed Student t of the seconds: t = "
        f"{student.statistic:.1f}, {p_equals(student.pvalue)}. Paired by case and without its assumption "
        f"of a normal spread, Wilcoxon's signed rank: {p_equals(paired.pvalue)}."
    )


def _against_imported(times: dict[str, dict[str, dict[str, float]]], imported: str) -> str:
    """The first arm against imported times, case by case; empty with fewer than six cases of both."""
    arm, kinds = next(iter(times.items()))
    what = next(
        (name for name in ("conversation", "first answer") if name in kinds and name in times[imported]), ""
    )
    ours, theirs = kinds.get(what, {}), times[imported].get(what, {})
    shared = [case for case in ours if case in theirs]
    if arm == imported or len(shared) < 6:
        return ""
    a, b = (np.array([side[case] for case in shared]) for side in (ours, theirs))
    p = wilcoxon(a, b).pvalue if (a != b).any() else 1.0
    return (
        f"{plain(arm).capitalize()} against the imported times of {plain(imported)}, {what}: faster in "
        f"{int((a < b).sum())} of {len(shared)} cases, medians {np.median(a):.1f} and {np.median(b):.1f} "
        f"s, Wilcoxon's signed rank {p_equals(p)}. Imported seconds are what their source says, such as a "
        "person's own time or the wait for a reply."
    )


def _limits(together: int, published: dict[str, Any]) -> str:
    text = (
        "What such a test cannot say: the machine's time is a stopwatch on one computer and depends on "
        "it, on the length of the answer and on how many answers are decoded together"
    )
    if together:
        beside = "; each has its own clock, from its submission to its end, and the others slow it down"
        text += f" (here up to {together}{beside if together > 1 else ''})"
    text += (
        "; a doctor's time includes looking, asking and deciding, and concerns a patient. A small p says "
        "that the two differ, which nobody doubts, and nothing about which answer is right."
    )
    doctors, model = published.get("dermatologists_minutes"), published.get("skingpt4_seconds")
    if doctors and model:
        low, high = doctors["approximate_range"]
        text += (
            f" Published, read off a figure: dermatologists {low} to {high} minutes by their own account "
            f"(n = {doctors['n']}, median about {doctors['approximate_median']}), the model "
            f"{model['approximate_range'][0]} to {model['approximate_range'][1]} s (n = {model['n']}): no "
            "comparison of equals."
        )
    return text
