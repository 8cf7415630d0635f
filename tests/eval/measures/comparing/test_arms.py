import pytest
from statsmodels.stats.multitest import multipletests

from eval.measures.comparing.arms import compare_all, compare_pair, f1_exchange_p, shared_lines
from tests.support.simulated import covers, simulate


def line(case_id, true, best, text=None, concepts=None, named=()):
    scores = {name: -float(name != best) for name in "abc"}
    return {"case_id": case_id, "class": true, "class_scores": scores, "text_class": text,
            "concepts": concepts, "predicted_concepts": list(named)}  # fmt: skip


def test_cases_are_matched_by_id():
    first = [line("1", "a", "a"), line("2", "b", "b"), line("3", "c", "c")]
    second = [line("3", "c", "c"), line("1", "a", "b")]
    assert [x["case_id"] for x in shared_lines(first, second)[1]] == ["1", "3"]
    top1 = compare_pair(first, second)["top1"]
    assert (top1["value"], top1["n"], top1["only_first"], top1["only_second"]) == (0.5, 2, 1, 0)
    with pytest.raises(ValueError, match="share no case"):
        compare_pair(first, [line("7", "a", "a")])


def test_exchange_of_equal_answers_and_of_wholly_different_ones():
    truth = [{"x"}] * 10
    assert f1_exchange_p(truth, truth, truth) == 1
    # Only the two exchanges of all or of none are as far apart: 2 of 2**10.
    assert f1_exchange_p(truth, truth, [set()] * 10) == pytest.approx(2 / 1024, abs=0.003)


def test_holm_is_over_the_pairs_of_one_measure():
    arms = {name: simulate(150, accuracy, seed=1) for name, accuracy in
            (("two_step", 0.7), ("step1_only", 0.5), ("untrained", 0.1))}  # fmt: skip
    pairs = compare_all(arms)
    assert list(pairs) == [
        "two_step_minus_step1_only",
        "two_step_minus_untrained",
        "step1_only_minus_untrained",
    ]
    raw = [pair["top1"]["p"] for pair in pairs.values()]
    assert [pair["top1"]["p_holm"] for pair in pairs.values()] == pytest.approx(
        multipletests(raw, method="holm")[1]
    )
    assert pairs["two_step_minus_untrained"]["top1"]["num_tests"] == 3
    assert pairs["two_step_minus_untrained"]["top1"]["p_holm"] < 0.001


def test_one_arm_has_no_pair_and_unknown_concepts_no_f1():
    assert compare_all({"two_step": simulate(10)}) == {}
    assert "concept_micro_f1" not in compare_pair([line("1", "a", "a")], [line("1", "a", "b")])


def test_planted_differences_are_recovered():
    held, false_alarms = 0, 0
    for seed in range(30):
        a, b = simulate(150, 0.7, seed=seed), simulate(150, 0.5, seed=seed + 100)
        for mine, other in zip(a, b, strict=True):  # the same cases: concepts are those of the first
            other["concepts"] = mine["concepts"]
        found = compare_pair(a, b)
        held += covers(found["top1"], 0.2)
        same = simulate(150, 0.7, seed=seed + 200)
        false_alarms += compare_pair(a, same)["top1"]["p"] < 0.05
    assert held >= 26
    assert false_alarms <= 5
