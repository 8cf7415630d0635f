"""150 cases and simulated raters of known bias and agreement: the planted values are found again."""

import json

import numpy as np
import pytest

from data.phantoms.__main__ import main as phantoms
from eval import report, review
from eval.rating import summary as rated
from eval.rating.questionnaire import ITEMS
from eval.rating.store import Store
from tests.support.simulated_run import Panel, write_run

CASES = [f"case-{number:04d}" for number in range(150)]
MANY = 20_000  # cases from which the planted values are computed, the raters being the same


@pytest.fixture(scope="module")
def planted():
    """(arm, item) -> share that agrees, kappa, alpha, AC2 and ICC, as the generator has them."""
    tables = Panel().scores(MANY, seed=99)
    found = {}
    for key, table in tables.items():
        values = {name: statistic(table[:4000]) for name, statistic in rated.COEFFICIENTS.items()}
        values["agree"] = float(rated.agrees(table).mean())
        values["mean"] = float(table.mean())
        values[rated.ICC] = icc(table)
        found[key] = values
    return found


def icc(table):
    """ICC(2,k) from the mean squares (Shrout and Fleiss 1979), apart from the library that the report uses."""
    n, k = table.shape
    grand = table.mean()
    between = k * ((table.mean(axis=1) - grand) ** 2).sum() / (n - 1)
    raters = n * ((table.mean(axis=0) - grand) ** 2).sum() / (k - 1)
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + grand
    error = (rest**2).sum() / ((n - 1) * (k - 1))
    return (between - error) / (between + (raters - error) / n)


@pytest.fixture(scope="module")
def found():
    return rated.summary(Panel().ratings(CASES, seed=1))


def test_planted_shares_and_agreement_lie_in_their_intervals(planted, found):
    """At 95 % one in twenty may lie outside; none of these may lie far off, and no interval may be idle."""
    inside, total = 0, 0
    for (arm, item), values in planted.items():
        summary = found["arms"][arm][item]
        for name, value in values.items():
            figure = summary[name] if name in ("agree", "mean") else summary["agreement"][name]
            low, high = figure["low"], figure["high"]
            inside, total = inside + (low <= value <= high), total + 1
            assert low - (high - low) / 2 <= value <= high + (high - low) / 2, (arm, item, name)
            assert high - low < (0.45 if name in (rated.ICC, "mean") else 0.3)
    assert total == 2 * 7 * 6
    assert inside >= 0.9 * total


def test_planted_difference_of_the_arms_lies_in_its_interval(planted, found):
    for item in ITEMS:
        pair = found["pairs"]["two_step_minus_untrained"][item]
        for name in ("agree", "mean"):
            truth = planted["two_step", item][name] - planted["untrained", item][name]
            assert pair[name]["low"] <= truth <= pair[name]["high"], (item, name)
            assert pair[name]["low"] > 0  # the planted difference is seen
        assert pair["p_holm"] >= pair["p"]
        assert pair["p_holm"] < 0.01
    truth = planted["two_step", "diagnosis"]["mean"] - planted["untrained", "diagnosis"]["mean"]
    model = found["pairs"]["two_step_minus_untrained"]["diagnosis"]["mixed_model"]
    assert model["low"] <= truth <= model["high"]
    assert model["value"] == pytest.approx(
        found["pairs"]["two_step_minus_untrained"]["diagnosis"]["mean"]["value"]
    )


def test_from_150_rendered_cases_to_the_report(planted, tmp_path, capsys):
    """The whole way: rendered cases, answers, raters in the form's file, their export, the report."""
    known = {"two_step": 0.67, "untrained": 0.07}
    command = ["render", "--out-dir", str(tmp_path), "--split", "cases", "--count", "150", "--size", "48"]
    assert phantoms(command) == 0
    manifest, run = tmp_path / "cases" / "manifest.jsonl", tmp_path / "run"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    images, truth = ([row[key] for row in rows] for key in ("image", "class"))
    ids = write_run(run, images, known, cases_file=str(manifest), truth=truth)
    Store(run).add(Panel().ratings(ids, seed=1))
    assert review.main(["--run-dir", str(run), "--export", str(run / "ratings.csv")]) == 0
    assert report.main(["--run-dir", str(run)]) == 0
    assert "picture not found" not in (run / "report.html").read_text()
    assert (run / "report.pdf").stat().st_size > 10_000
    results = json.loads((run / "results.json").read_text())
    for arm, share in known.items():
        figure = results["arms"][arm]["top1"]
        assert figure["low"] <= share + (1 - share) / 15 <= figure["high"]
        assert (
            results["ratings"]["hallucination"][arm]["low"]
            <= 0.2
            <= results["ratings"]["hallucination"][arm]["high"]
        )
    inside = [
        results["ratings"]["arms"][arm][item][name]["low"] <= values[name]
        <= results["ratings"]["arms"][arm][item][name]["high"]
        for (arm, item), values in planted.items() for name in ("agree", "mean")
    ]  # fmt: skip
    assert sum(inside) >= 0.9 * len(inside) == 0.9 * 28
    assert results["ratings"]["num_ratings"] == 150 * 2 * 3 * len(ITEMS)
    assert results["provenance"]["ratings"]["ratings rows"] == 150 * 2 * 3 * (len(ITEMS) + 2)
    assert f"n = {150}" in capsys.readouterr().out


def test_coverage_of_the_share_over_many_panels():
    """The interval that draws cases holds the planted share in about 95 of 100 runs."""
    truth = rated.agrees(Panel().scores(MANY, seed=99)["two_step", "diagnosis"]).mean()
    held = 0
    for seed in range(100, 200):
        table = Panel().scores(150, seed)["two_step", "diagnosis"]
        interval = rated.mean_of(rated.agrees(table), draw_raters=False, resamples=500)
        held += interval.low <= truth <= interval.high
    assert 88 <= held <= 99


def test_no_difference_is_no_finding():
    """Two arms that are the same: p is spread out, not small."""
    panel = Panel(arms=(("two_step", 0.0), ("untrained", 0.0)))
    small = 0
    for seed in range(60):
        tables = panel.scores(150, 300 + seed)
        difference = tables["two_step", "diagnosis"] - tables["untrained", "diagnosis"]
        small += rated.sign_flip(difference.sum(axis=1), resamples=2000) < 0.05
    assert small <= 9


def test_drawing_raters_widens_the_interval():
    table = rated.agrees(Panel().scores(150, 5)["two_step", "diagnosis"])
    cases, both = (rated.mean_of(table, draw_raters=each) for each in (False, True))
    assert both.high - both.low > 1.5 * (cases.high - cases.low)
    assert cases.value == both.value == pytest.approx(table.mean())


def test_missing_ratings_one_rater_and_one_opinion():
    table = Panel().scores(40, 5)["two_step", "diagnosis"]
    table[::3, 1] = np.nan
    table[0] = np.nan
    summary = rated.item_summary(table, resamples=20)
    assert summary["num_cases"] == 39
    assert summary["num_ratings"] == int((~np.isnan(table)).sum())
    assert sum(summary["counts"].values()) == summary["num_ratings"]
    alone = rated.item_summary(table[:, :1], resamples=20)
    assert (alone["agree_over_raters"], alone["agreement"]) == (None, {})
    same = rated.item_summary(np.full((10, 3), 5.0), resamples=20)
    assert same["agreement"]["quadratic-weighted kappa"]["value"] is None
    assert same["agreement"][rated.ICC]["value"] is None
    assert rated.compare(np.full((10, 2), np.nan), np.full((10, 2), 3.0)) is None
    assert rated.mixed_model(np.ones((10, 2)), np.ones((10, 2))) is None
