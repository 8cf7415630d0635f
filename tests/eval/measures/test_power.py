from functools import cache

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.proportion import samplesize_confint_proportion

from eval import power as command
from eval.measures import power


@pytest.mark.parametrize(("share", "width"), [(0.5, 0.1), (0.8, 0.1), (0.8, 0.04)])
def test_width_is_the_smallest_and_near_the_textbook(share, width):
    n = power.cases_for_width(share, width)
    assert power.wilson_width(share, n) <= width
    assert n == pytest.approx(samplesize_confint_proportion(share, width / 2), rel=0.05)


@pytest.mark.parametrize(("better", "worse", "n"), [(0.25, 0.1, 150), (0.1, 0.1, 200), (0.05, 0.2, 60)])
def test_mcnemar_power_equals_simulation(better, worse, n):
    rng = np.random.default_rng(0)
    draws = rng.multinomial(n, [better, worse, 1 - better - worse], size=4000)
    rejects = cache(lambda b, discordant: discordant > 0 and binomtest(b, discordant).pvalue <= 0.05)
    rejected = np.mean([rejects(int(b), int(b + w)) for b, w, _ in draws])
    assert power.mcnemar_power(better, worse, n) == pytest.approx(rejected, abs=0.025)


def test_the_number_of_cases_has_the_power_and_the_quick_formula_agrees():
    n = power.cases_for_difference(0.15, 0.05)
    assert power.mcnemar_power(0.15, 0.05, n) >= 0.8 > power.mcnemar_power(0.15, 0.05, n - 1)
    small = power.cases_for_difference(0.102, 0.1)
    assert small > 20_000  # by the formula; the exact search would take minutes
    assert n == pytest.approx((1.96 * 0.2**0.5 + 0.8416 * (0.2 - 0.01) ** 0.5) ** 2 / 0.01, rel=0.15)


def test_the_crossed_design_equals_simulation():
    rng = np.random.default_rng(1)
    cases, raters, case_icc, rater_icc = 40, 5, 0.3, 0.15
    means = []
    for _ in range(4000):  # a normal trait of unit variance: the variance formula is the same
        trait = (
            case_icc**0.5 * rng.normal(size=(cases, 1))
            + rater_icc**0.5 * rng.normal(size=(1, raters))
            + (1 - case_icc - rater_icc) ** 0.5 * rng.normal(size=(cases, raters))
        )
        means.append(trait.mean())
    half = power.ratings_half_width(0.5, cases, raters, case_icc, rater_icc) / 0.5  # of unit variance
    assert half == pytest.approx(1.96 * np.std(means), rel=0.05)


def test_the_commands_speak_plainly(capsys):
    assert command.main(["width", "--share", "0.8", "--points", "10"]) == 0
    assert command.main(["paired", "--better", "0.15", "--worse", "0.05"]) == 0
    assert command.main(["ratings", "--share", "0.8"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("245 cases")
    assert "150 cases have a power of" in out
    assert len(out.splitlines()) == 2 + 2 + 1 + 7 + 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["width", "--share", "1.2", "--points", "10"], "--share: 1.2 must lie between 0 and 1"),
        (["width", "--share", "0.5", "--points", "0.01"], "more than 1,000,000 cases"),
        (["paired", "--better", "0.1", "--worse", "0.1"], "must differ"),
        (["ratings", "--share", "0.5", "--case-icc", "0.8", "--rater-icc", "0.3"], "sum to at most 1"),
    ],
)
def test_senseless_numbers_get_a_sentence(capsys, arguments, sentence):
    assert command.main(arguments) == 1
    assert sentence in capsys.readouterr().err
