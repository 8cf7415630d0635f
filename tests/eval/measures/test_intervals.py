import numpy as np
import pytest

from eval.measures import classification, intervals
from eval.measures.comparing import groups
from eval.measures.intervals import Interval

# Three cases: 1 found; 1 found and 1 added; 2 missed. tp 2, fp 1, fn 2.
TRUTH = [{"Papule"}, {"Scale"}, {"Papule", "Ulcer"}]
NAMED = [{"Papule"}, {"Scale", "Ulcer"}, set()]


def line(case_id, true, scores, text=None, concepts=(), named=(), fitzpatrick=None):
    return {
        "case_id": case_id,
        "class": true,
        "class_scores": dict(zip("abcd", scores, strict=True)),
        "text_class": text,
        "concepts": list(concepts),
        "predicted_concepts": list(named),
        "fitzpatrick": fitzpatrick,
    }


LINES = [
    line("1", "a", [-1, -2, -3, -4], "a", ["Papule"], ["Papule"], 1),
    line("2", "b", [-1, -2, -3, -4], "b", ["Scale"], ["Scale", "Ulcer"], 1),
    line("3", "d", [-1, -2, -3, -4], None, ["Papule", "Ulcer"], [], -1),
]


def test_wilson_interval_of_95_of_150():
    interval = intervals.proportion(95, 150)
    assert interval.value == pytest.approx(95 / 150)
    assert (interval.low, interval.high) == (pytest.approx(0.5537, abs=1e-4), pytest.approx(0.7063, abs=1e-4))
    assert interval.text() == "63.3 % (55.4 to 70.6, n = 150)"
    assert Interval.from_dict(interval.to_dict()) == interval


def test_wilson_interval_has_width_at_the_ends():
    # Wilson at 0 of n: high = z^2 / (n + z^2) with z = 1.95996.
    assert intervals.proportion(0, 10).high == pytest.approx(3.8415 / 13.8415, abs=1e-4)
    assert intervals.proportion(0, 10).low == pytest.approx(0, abs=1e-12)
    assert intervals.proportion(10, 10).low == pytest.approx(10 / 13.8415, abs=1e-4)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_proportion_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="proportion"):
        intervals.proportion(successes, n)


def test_differences_are_written_in_points():
    assert Interval(0.12, 0.04, 0.2, 150).points() == "+12.0 points (4.0 to 20.0, n = 150)"
    assert Interval(-0.00001, -0.1, 0.1, 5).points() == "0.0 points (-10.0 to 10.0, n = 5)"


def test_micro_scores_by_hand():
    assert intervals.concept_counts(TRUTH, NAMED).tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 2]]
    assert intervals.micro_precision(TRUTH, NAMED).value == pytest.approx(2 / 3)
    assert intervals.micro_recall(TRUTH, NAMED).value == pytest.approx(2 / 4)
    f1 = intervals.micro_f1(TRUTH, NAMED)
    assert f1.value == pytest.approx(4 / 7)
    assert f1.n == 3
    assert 0 <= f1.low <= f1.value <= f1.high <= 1


def test_micro_f1_is_reproducible_and_depends_on_the_seed():
    truth, named = TRUTH * 10, NAMED * 10
    assert intervals.micro_f1(truth, named, seed=4) == intervals.micro_f1(truth, named, seed=4)
    assert intervals.micro_f1(truth, named, seed=4) != intervals.micro_f1(truth, named, seed=5)


def test_nothing_there_and_nothing_named_scores_zero():
    assert intervals.micro_f1([set()], [set()]) == Interval(0.0, 0.0, 0.0, 1)


def test_bootstrap_draws_whole_cases():
    # One case with ten concepts found, one with ten missed: drawn as cases F1 must reach 0 and 1.
    truth = [{f"x{i}" for i in range(10)}, {f"x{i}" for i in range(10)}]
    interval = intervals.micro_f1(truth, [truth[0], set()])
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_f1_interval_covers_the_true_value():
    # Each of 2 concepts is found with 0.7 and a third added with 0.3: F1 = 2*1.4 / (2*1.4 + 0.3 + 0.6).
    rng, true_f1, covered = np.random.default_rng(1), 2.8 / 3.7, 0
    for _ in range(100):
        draws = rng.random((80, 3)) < [0.7, 0.7, 0.3]
        named = [{name for name, hit in zip("xyz", row, strict=True) if hit} for row in draws]
        interval = intervals.micro_f1([{"x", "y"}] * 80, named, resamples=300)
        covered += interval.low <= true_f1 <= interval.high
    assert 88 <= covered <= 100


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="3 cases of truth but 2"):
        intervals.micro_f1(TRUTH, NAMED[:2])
    with pytest.raises(ValueError, match="one shape"):
        intervals.paired_difference([1, 0], [1])
    with pytest.raises(ValueError, match="at least one case"):
        intervals.micro_f1([], [])


def test_per_concept_by_hand():
    rows = {row.concept: row for row in intervals.per_concept(TRUTH, NAMED)}
    assert list(rows) == ["Papule", "Scale", "Ulcer"]
    papule = rows["Papule"]
    assert (papule.support, papule.predicted) == (2, 1)
    assert (papule.precision, papule.recall, papule.f1) == (1.0, 0.5, pytest.approx(2 / 3))
    assert (rows["Ulcer"].support, rows["Ulcer"].predicted, rows["Ulcer"].f1) == (1, 1, 0.0)


def test_paired_difference_has_the_sign_of_first_minus_second():
    a, b = [1] * 30 + [0] * 20, [1] * 10 + [0] * 40
    better = intervals.paired_difference(a, b)
    assert better.value == pytest.approx(0.4)
    assert 0 < better.low < 0.4 < better.high
    assert intervals.paired_difference(b, a).value == pytest.approx(-0.4)
    assert intervals.paired_difference(a, a) == Interval(0.0, 0.0, 0.0, 50)


def test_paired_difference_uses_the_pairing():
    # Equal accuracies, once on the same cases and once on opposite ones.
    half = np.array([1, 0] * 25)
    assert intervals.paired_difference(half, half).high == 0
    assert intervals.paired_difference(half, 1 - half).high > 0.2


def test_mcnemar_by_hand():
    # 6 against 1: two-sided p = 2 * (C(7,0) + C(7,1)) / 2^7 = 16/128.
    test = intervals.mcnemar([1] * 6 + [0] + [1] * 5, [0] * 6 + [1] + [1] * 5)
    assert (test.only_first, test.only_second, test.p) == (6, 1, pytest.approx(0.125))
    assert intervals.mcnemar([1, 0], [1, 0]).p == 1.0


def test_paired_f1_difference_by_hand():
    nothing: list[set[str]] = [set(), set(), set()]
    interval = intervals.paired_f1_difference(TRUTH, NAMED, nothing)
    assert interval.value == pytest.approx(4 / 7)
    assert intervals.paired_f1_difference(TRUTH, nothing, NAMED).value == pytest.approx(-4 / 7)
    assert intervals.paired_f1_difference(TRUTH, NAMED, NAMED) == Interval(0.0, 0.0, 0.0, 3)


def test_confusion_rows_are_the_truth():
    table = classification.confusion(["a", "a", "b"], ["a", "b", "b"], ["a", "b", "c"])
    assert table.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="not among the classes: z"):
        classification.confusion(["a"], ["z"], ["a"])


def test_arm_summary_by_hand():
    summary = intervals.arm_summary(LINES)
    assert {name: measure["value"] for name, measure in summary.items()} == {
        "top1": pytest.approx(1 / 3),  # only case 1 has its class first
        "top3": pytest.approx(2 / 3),  # d is fourth
        "top1_text": pytest.approx(2 / 3),  # None counts as wrong
        "concept_micro_f1": pytest.approx(4 / 7),
    }
    assert all(set(measure) == {"value", "low", "high", "n"} for measure in summary.values())
    assert summary["top3"]["n"] == 3


def test_equal_scores_are_broken_alike_for_top1_and_best_class():
    tied = line("1", "b", [-1, -1, -1, -1])
    assert intervals.best_class(tied) == "a"
    assert intervals.arm_summary([tied])["top1"]["value"] == 0
    assert intervals.arm_summary([tied])["top3"]["value"] == 1


def test_a_ratio_over_cases_and_where_it_is_not_defined():
    interval = intervals.ratio_interval([1, 2, 3], [2, 4, 6])
    assert (interval.value, interval.low, interval.high, interval.n) == (0.5, 0.5, 0.5, 3)
    assert intervals.ratio_interval([0.0, 1.0] * 50).value == 0.5
    assert intervals.ratio_interval([0, 0], [0, 0]).to_dict() == {
        "value": None, "low": None, "high": None, "n": 2,
    }  # fmt: skip


def test_by_group_counts_each_group_and_names_the_unknown():
    types = groups.by_group(LINES, "fitzpatrick")
    assert list(types) == ["1", "unknown"]
    assert (types["1"].value, types["1"].n, types["unknown"].n) == (0.5, 2, 1)
    assert {name: group.value for name, group in groups.by_group(LINES, "class").items()} == {
        "a": 1.0,
        "b": 0.0,
        "d": 0.0,
    }
