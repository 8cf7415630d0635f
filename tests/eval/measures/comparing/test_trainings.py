"""Groups of trainings: planted values are recovered, and one training is an arm."""

import numpy as np
import pytest

from eval.measures.comparing import trainings
from eval.measures.comparing.arms import compare_pair
from eval.measures.comparing.trainings import (
    GroupError,
    Trained,
    check_groups,
    difference,
    mean_interval,
    parse_groups,
    trained,
)
from eval.measures.intervals import arm_summary, proportion
from tests.support.simulated import simulate


def lines(right, arm="a"):
    """One line a case; `right` says whether scores and text name the true class."""
    rows = []
    for place, hit in enumerate(right):
        best = "x" if hit else "y"
        rows.append(
            {
                "arm": arm, "case_id": f"c{place}", "class": "x", "concepts": ["Papule"], "text_class": best,
                "class_scores": {name: float(name == best) - 0.1 * n for n, name in enumerate("xyzvw")},
                "predicted_concepts": ["Papule"] if hit else ["Scale"],
            }
        )  # fmt: skip
    return rows


def table(seed, num_trainings, num_cases=150, mean=0.0, sd=0.0, noise=0.6, cases=None):
    """Outcomes (trainings, cases): a case's difficulty, a training's quality and chance, above 0 or not."""
    rng = np.random.default_rng(seed)
    cases = rng.normal(0, 1, num_cases) if cases is None else cases
    latent = (
        mean
        + rng.normal(0, sd, (num_trainings, 1))
        + cases
        + rng.normal(0, noise, (num_trainings, num_cases))
    )
    top = (latent > 0).astype(float)
    return Trained(tuple(f"c{n}" for n in range(num_cases)), top, np.ones_like(top), True)


def test_hand_made_rows_give_the_planted_values():
    seeds = [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]
    measured = trained([lines(right) for right in seeds])
    assert set(measured) == {"top1", "top3", "top1_text", "concept_micro_f1"}
    assert measured["top1"].values().tolist() == [0.75, 0.5, 0.25]
    assert measured["concept_micro_f1"].values().tolist() == [0.75, 0.5, 0.25]
    arms = {f"s{n}": lines(right) for n, right in enumerate(seeds)}
    found = trainings.measure_groups({"recipe": list(arms)}, arms)["groups"]["recipe"]
    assert found["arms"] == ["s0", "s1", "s2"]
    assert found["top1"]["value"] == 0.5
    assert found["top1"]["between_sd"] == pytest.approx(0.25)
    assert found["top1"]["each"] == {"s0": 0.75, "s1": 0.5, "s2": 0.25}
    assert (found["top1"]["n"], found["top1"]["num_trainings"]) == (4, 3)
    assert found["top3"]["value"] == 1.0  # the true class is never below the second place


def test_cases_that_one_training_did_not_answer_take_no_part():
    measured = trained([lines([1, 0, 1]), lines([1, 1])])
    assert measured["top1"].case_ids == ("c0", "c1")
    assert measured["top1"].values().tolist() == [0.5, 1.0]


def test_one_training_is_the_interval_of_its_arm():
    arm = simulate(seed=3)
    found = trainings.measure_groups({"recipe": ["a"]}, {"a": arm})["groups"]["recipe"]
    for name, figure in arm_summary(arm).items():
        assert {key: found[name][key] for key in figure} == pytest.approx(figure), name
    assert found["top1"]["between_sd"] is None


def test_one_training_against_one_is_the_pair_of_arms():
    a, b = simulate(accuracy=0.7, seed=1), simulate(accuracy=0.5, seed=2)
    pair = trainings.measure_groups({"recipe": ["a"]}, {"a": a, "b": b})["pairs"]["recipe_minus_b"]
    expected = compare_pair(a, b)
    for name, figure in expected.items():
        assert pair[name]["p"] == figure["p"]
        assert pair[name]["low"] == figure["low"]


def test_equal_trainings_leave_the_cases_alone():
    """Three copies of one training: nothing between trainings, so the interval is that over cases."""
    one = table(5, 1)
    three = Trained(one.case_ids, np.repeat(one.top, 3, axis=0), np.repeat(one.bottom, 3, axis=0), True)
    interval = mean_interval(three)
    drawn = np.random.default_rng(0).multinomial(150, np.full(150, 1 / 150), 2000) @ one.top[0] / 150
    assert interval.low == pytest.approx(np.percentile(drawn, 2.5))
    assert interval.high == pytest.approx(np.percentile(drawn, 97.5))


@pytest.mark.parametrize(("sd", "at_least"), [(0.0, 0.92), (0.1, 0.92), (0.3, 0.84)])
def test_intervals_cover_the_planted_mean(sd, at_least):
    """150 cases, 3 trainings. Where trainings differ much, three cannot say how much (0.90 in 400 trials)."""
    inside = 0
    for seed in range(60):
        interval = mean_interval(table(seed, 3, sd=sd), resamples=400)
        inside += interval.low <= 0.5 <= interval.high
    assert inside / 60 >= at_least


def test_trainings_that_differ_widen_the_interval():
    narrow, wide = (mean_interval(table(1, 5, sd=sd)) for sd in (0.0, 1.0))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_a_share_of_none_or_all_is_not_certain(right):
    rows = np.full((3, 150), right)
    interval = mean_interval(Trained(table(0, 1).case_ids, rows, np.ones_like(rows), True))
    assert interval == proportion(int(150 * right), 150)
    assert interval.high - interval.low > 0.02


def test_an_interval_lies_between_none_and_all():
    """One training alone has any right answers, so the widened draws of trainings go below 0."""
    rows = np.zeros((5, 150))
    rows[0, :10] = 1
    few, many = (
        mean_interval(Trained(table(0, 1).case_ids, t, np.ones_like(t), True)) for t in (rows, 1 - rows)
    )
    assert few.low == 0
    assert 0 < few.high < 0.1
    assert many.high == 1


def test_two_recipes_with_one_mean_differ_by_chance_alone():
    """The rate at which p is below 0.05, with trainings that differ: cases alone would find a difference often."""
    rejected = naive = 0
    for seed in range(200):
        cases = np.random.default_rng(10_000 + seed).normal(0, 1, 150)
        a, b = (table(2 * seed + n, 4, sd=0.3, cases=cases) for n in (0, 1))
        found = difference(a, b, resamples=20)
        rejected += found["p"] < 0.05
        per_case = a.top.mean(axis=0) - b.top.mean(axis=0)
        naive += abs(per_case.mean()) > 1.96 * per_case.std(ddof=1) / 150**0.5
    assert rejected / 200 <= 0.08
    assert naive / 200 > 0.25


def test_a_planted_difference_is_found():
    cases = np.random.default_rng(9).normal(0, 1, 150)
    better, worse = table(1, 4, mean=0.7, sd=0.1, cases=cases), table(2, 4, mean=0.0, sd=0.1, cases=cases)
    found = difference(better, worse)
    assert found["low"] > 0.1
    assert found["p"] < 0.01
    assert found["value"] == pytest.approx(better.values().mean() - worse.values().mean())
    assert difference(worse, better)["value"] == pytest.approx(-found["value"])


def test_a_ratio_of_one_training_has_the_error_of_its_linearisation():
    """F1's standard error against the bootstrap's."""
    a, b = simulate(seed=1), simulate(seed=2, text_silent=0.9)
    first, second = trained([a])["concept_micro_f1"], trained([b])["concept_micro_f1"]
    found = difference(first, second)
    assert found["standard_error"] == pytest.approx((found["high"] - found["low"]) / 3.92, rel=0.1)


def test_same_everywhere_is_no_difference():
    same = Trained(("a", "b"), np.ones((2, 2)), np.ones((2, 2)), True)
    assert difference(same, same)["p"] == 1.0


def test_groups_are_named_by_lists_and_patterns():
    arms = ["two_step_s0", "two_step_s1", "step1_s0", "untrained"]
    assert parse_groups(["two_step=two_step_s*", "step1=step1_s0"], arms) == {
        "two_step": ["two_step_s0", "two_step_s1"], "step1": ["step1_s0"],
    }  # fmt: skip
    assert parse_groups(["a=two_step_s1,two_step_s0"], arms) == {"a": ["two_step_s1", "two_step_s0"]}
    for text, message in (
        ("two_step", "write NAME=ARM"),
        ("two_step=two_step_x*", "no arm is called 'two_step_x\\*'"),
        ("untrained=step1_s0", "this name is taken"),
    ):
        with pytest.raises(GroupError, match=message):
            parse_groups([text], arms)
    with pytest.raises(GroupError, match="arm two_step_s0 is in the group a already"):
        parse_groups(["a=two_step_s0", "b=two_step_*"], arms)


def test_a_group_is_trainings_of_one_recipe():
    metas = {
        "a": {"checkpoint_sha256": "1", "step": "step2"},
        "b": {"checkpoint_sha256": "2", "step": "step2"},
    }
    check_groups({"g": ["a", "b"]}, metas)
    with pytest.raises(GroupError, match="a and b are the same checkpoint, not two trainings"):
        check_groups({"g": ["a", "b"]}, {**metas, "b": metas["a"]})
    with pytest.raises(GroupError, match="a and b differ in step"):
        check_groups({"g": ["a", "b"]}, {**metas, "b": {"checkpoint_sha256": "2", "step": "step1"}})
