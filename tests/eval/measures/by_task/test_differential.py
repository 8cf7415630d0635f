import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.measures.by_task.differential import weighted_top_k


def line(differential, scores, cluster=0):
    return {"differential": differential, "class_scores": scores, "cluster": cluster}


def value(figures, name):
    return figures[name]["value"]


def test_two_cases_by_hand():
    scores = {"A": -2.0, "B": -3.0, "C": -1.0, "D": -4.0}
    lines = [
        line({"A": 0.6, "B": 0.3, "X": 0.1}, scores, 0),  # ranking C A B D; X is no label
        line({"B": 1.0}, scores | {"B": 0.0}, 1),  # ranking B C A D
    ]
    figures = weighted_top_k(lines)
    assert list(figures)[:2] == ["num_cases", "weight_outside"]
    assert value(figures, "weight_outside") == pytest.approx((0.1 + 0) / 2)
    assert value(figures, "weight_in_top1") == pytest.approx((0 + 1) / 2)
    assert value(figures, "best_top1") == pytest.approx((0.6 + 1) / 2)
    assert value(figures, "likeliest_in_top1") == 0.5
    assert value(figures, "weight_in_top3") == pytest.approx((0.9 + 1) / 2)
    assert value(figures, "best_top3") == pytest.approx((0.9 + 1) / 2)
    assert value(figures, "likeliest_in_top3") == 1.0
    assert "weight_in_top5" not in figures  # of four labels


def test_a_likeliest_name_outside_the_labels_is_never_hit():
    figures = weighted_top_k([line({"X": 0.7, "A": 0.3}, {"A": 0.0, "B": -1.0, "C": -2.0, "D": -3.0})])
    assert value(figures, "likeliest_in_top3") == 0.0
    assert value(figures, "weight_in_top1") == pytest.approx(0.3)


def test_of_two_likeliest_either_will_do():
    figures = weighted_top_k([line({"A": 0.5, "B": 0.5}, {"A": -1.0, "B": 0.0, "C": -2.0})])
    assert value(figures, "likeliest_in_top1") == 1.0


def test_without_differentials_there_is_nothing():
    assert weighted_top_k([line({}, {"A": 0.0})]) == {}


names = st.sampled_from(list("ABCDEFX"))
weights = st.dictionaries(names, st.floats(0.01, 1), min_size=1).map(
    lambda d: {name: weight / sum(d.values()) for name, weight in d.items()}
)
scores = st.fixed_dictionaries({name: st.floats(-9, 0) for name in "ABCDEF"})


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(weights, scores), min_size=1, max_size=6))
def test_more_places_hold_more_and_never_more_than_the_best(rows):
    figures = weighted_top_k([line(w, s, n) for n, (w, s) in enumerate(rows)], resamples=20)
    got = [value(figures, f"weight_in_top{k}") for k in (1, 3, 5)]
    best = [value(figures, f"best_top{k}") for k in (1, 3, 5)]
    assert got == sorted(got)
    assert best == sorted(best)
    assert all(g <= b + 1e-9 for g, b in zip(got, best, strict=True))
    assert best[-1] <= 1 - value(figures, "weight_outside") + 1e-9
