from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from eval.measures import agreement
from eval.measures.intervals import ratio_interval
from eval.rating import summary

NAN = float("nan")
COEFFICIENTS = {**summary.COEFFICIENTS, summary.ICC: lambda table: agreement.icc_interval(table).value}


def test_pairwise_and_modal_agreement_by_hand():
    answers = [["a", "a", "a", "b"], ["a", "a", "a", "a"], [None, None, "a", "b"]]
    assert agreement.pairwise_agreement(answers).tolist() == pytest.approx([3 / 6, 1, 1 / 6])
    assert agreement.modal_agreement(answers).tolist() == [0.75, 1, 0.5]


def test_fleiss_by_hand_and_where_it_is_not_defined():
    # Two categories, 4 cases, 2 raters: observed agreement 3/4, chance 1/2.
    answers = [["a", "a"], ["b", "b"], ["a", "b"], ["a", "a"]]
    chance = (5 / 8) ** 2 + (3 / 8) ** 2
    assert agreement.fleiss(answers) == pytest.approx((0.75 - chance) / (1 - chance))
    assert np.isnan(agreement.fleiss([["a", "a"], ["a", "a"]]))


def test_one_repeat_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        agreement.pairwise_agreement([["a"], ["b"]])


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=4, max_size=4), min_size=2, max_size=12))
def test_modal_is_never_below_pairwise(answers):
    assert (agreement.modal_agreement(answers) >= agreement.pairwise_agreement(answers) - 1e-12).all()


def test_gwet_ac2_by_hand_for_two_raters():
    table = np.array([[1, 1], [1, 2], [2, 2], [3, 3], [3, 1], [2, 2]], dtype=float)
    weights = {0: 1.0, 1: 0.75, 2: 0.0}
    observed = np.mean([weights[abs(int(a - b))] for a, b in table])
    share = np.array([(table == value).sum() / 12 for value in (1, 2, 3)])
    total = 3 + 4 * 0.75
    chance = total / 6 * (share * (1 - share)).sum()
    assert agreement.gwet_ac2(table, (1, 2, 3)) == pytest.approx((observed - chance) / (1 - chance))


# Krippendorff's own example (Computing Krippendorff's Alpha-Reliability, 2011): 4 raters, 12 units, gaps.
EXAMPLE = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
).T


def test_ordinal_alpha_is_the_published_one():
    assert agreement.krippendorff_ordinal(EXAMPLE) == pytest.approx(0.815, abs=5e-4)


def test_gwet_ac2_with_gaps_pair_by_pair():
    def weight(a, b):
        return 1 - (a - b) ** 2 / 16

    shares, agree = [], []
    for row in EXAMPLE:
        given = row[~np.isnan(row)]
        shares.append([np.mean(given == value) for value in (1, 2, 3, 4, 5)])
        if len(given) > 1:
            agree.append(np.mean([weight(a, b) for a, b in permutations(given, 2)]))
    prevalence = np.mean(shares, axis=0)
    total = sum(weight(a, b) for a, b in product((1, 2, 3, 4, 5), repeat=2))
    chance = total / 20 * (prevalence * (1 - prevalence)).sum()
    expected = (np.mean(agree) - chance) / (1 - chance)
    assert agreement.gwet_ac2(EXAMPLE) == pytest.approx(expected)


def test_gwet_ac2_stands_where_kappa_collapses():
    rng = np.random.default_rng(0)
    table = np.where(rng.random((200, 3)) < 0.05, 4.0, 5.0)
    assert agreement.gwet_ac2(table) > 0.95
    assert agreement.weighted_kappa(table) < 0.2


def test_weighted_kappa_is_the_library_s():
    table = planted(raters=2)
    theirs = cohen_kappa_score(*table.T.astype(int), weights="quadratic")
    assert agreement.weighted_kappa(table) == pytest.approx(theirs)


def planted(cases=150, raters=6, seed=0, noise=0.6):
    """Scores 1 to 5 from a case's own worth, a rater's leaning and noise."""
    rng = np.random.default_rng(seed)
    trait = (
        rng.normal(3.2, 1.0, (cases, 1))
        + rng.normal(0, 0.2, (1, raters))
        + rng.normal(0, noise, (cases, raters))
    )
    return np.clip(np.rint(trait), 1, 5)


@pytest.mark.parametrize("measure", COEFFICIENTS.values(), ids=list(COEFFICIENTS))
def test_measures_order_agreement_and_bear_gaps(measure):
    good, poor = planted(noise=0.3), planted(noise=2.5)
    assert measure(good) > measure(poor) + 0.1
    same = np.repeat(planted(raters=1), 3, axis=1)
    assert measure(same) == pytest.approx(1, abs=1e-6)
    gaps = good.copy()
    gaps[np.random.default_rng(1).random(good.shape) < 0.05] = NAN
    assert measure(gaps) == pytest.approx(measure(good), abs=0.1)


@pytest.mark.parametrize("name", ["quadratic-weighted kappa", "Krippendorff's alpha, ordinal", "ICC(2,k)"])
def test_undefined_is_nan_and_not_a_number(name):
    assert np.isnan(COEFFICIENTS[name](np.full((20, 3), 5.0)))


def test_icc_equals_its_anova_by_hand():
    table = planted(cases=12, raters=4)
    n, k = table.shape
    mean = table.mean()
    rows = k * ((table.mean(axis=1) - mean) ** 2).sum() / (n - 1)
    columns = n * ((table.mean(axis=0) - mean) ** 2).sum() / (k - 1)
    rest = ((table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + mean) ** 2).sum()
    rest /= (n - 1) * (k - 1)
    expected = (rows - rest) / (rows + (columns - rest) / n)
    assert agreement.icc_interval(table).value == pytest.approx(expected, abs=1e-3)


def test_intervals_cover_and_drawing_raters_widens_them():
    table = planted(raters=5, seed=3)
    within = agreement.statistic_interval(table, agreement.gwet_ac2, resamples=200)
    assert within.low < within.value < within.high
    fixed = agreement.statistic_interval(table, np.mean, resamples=200)
    drawn = agreement.statistic_interval(table, np.mean, draw_raters=True, resamples=200)
    assert drawn.high - drawn.low > fixed.high - fixed.low
    mean = ratio_interval(np.array([0.0, 1.0] * 50))
    assert (mean.value, mean.n) == (0.5, 100)
    assert mean.high - mean.low == pytest.approx(0.196, abs=0.03)
