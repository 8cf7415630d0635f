import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.measures.by_task.clusters import cluster_draws, interval_of, share, weighted_mean
from eval.measures.intervals import case_draws, proportion


def test_three_cases_of_two_patients_by_hand():
    # Patient a has two right cases, patient b one wrong one: 2 of 3. Two patients are drawn: a and a give 4 of 4, b
    # and b give 0 of 2, one of each (half of the draws) 2 of 3; no other value is possible.
    draws = cluster_draws(["a", "a", "b"], resamples=4000)
    values = weighted_mean([1, 1, 0])(draws)
    assert {round(v, 6) for v in values} == {0.0, round(2 / 3, 6), 1.0}
    assert np.mean(values == 0) == pytest.approx(0.25, abs=0.03)
    assert np.mean(values == 1) == pytest.approx(0.25, abs=0.03)
    figure = interval_of(weighted_mean([1, 1, 0]), draws)
    assert (figure.value, figure.low, figure.high, figure.n) == (pytest.approx(2 / 3), 0.0, 1.0, 3)


def test_cases_of_their_own_are_drawn_as_ever():
    assert (cluster_draws(list("wxyz"), 50, 3) == case_draws(4, 50, 3)).all()
    assert share([True, False, True], [5, 6, 7]) == proportion(2, 3)


def test_a_share_of_nothing_has_an_interval_of_its_clusters():
    # Six wrong cases of three patients: as wide as 0 of 3.
    figure = share([False] * 6, [0, 0, 1, 1, 2, 2])
    assert (figure.low, figure.high, figure.n) == (0.0, proportion(0, 3).high, 6)
    assert share([True] * 4, [0, 0, 1, 1]).low == proportion(2, 2).low


def test_a_share_among_no_case_is_not_defined():
    figure = interval_of(weighted_mean([1, 0], np.array([False, False])), cluster_draws([0, 1]))
    assert figure.to_dict() == {"value": None, "low": None, "high": None, "n": 2}
    with pytest.raises(ValueError, match="at least one case"):
        cluster_draws([])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(1, 4))
def test_copies_of_a_case_add_no_certainty(right, copies):
    once = interval_of(weighted_mean(right), cluster_draws(list(range(len(right))), 200))
    more = [each for each in right for _ in range(copies)]
    clusters = [number for number in range(len(right)) for _ in range(copies)]
    again = interval_of(weighted_mean(more), cluster_draws(clusters, 200))
    assert (again.value, again.low, again.high) == pytest.approx((once.value, once.low, once.high))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=15))
def test_cases_of_one_cluster_are_drawn_equally_often(clusters):
    draws = cluster_draws(clusters, 20)
    for own in set(clusters):
        places = [i for i, cluster in enumerate(clusters) if cluster == own]
        assert (draws[:, places] == draws[:, places[:1]]).all()
    firsts = [clusters.index(cluster) for cluster in set(clusters)]
    assert (draws[:, firsts].sum(axis=1) == len(firsts)).all()
