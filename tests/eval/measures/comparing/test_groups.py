import numpy as np
import pytest
from scipy.stats import chi2_contingency

from eval.measures.comparing import groups
from eval.measures.comparing.groups import Measured, by_groups, difference, permutation_p
from tests.support.simulated import covers, simulate


def share(values):
    return Measured(np.array(values, dtype=float), np.ones(len(values)), True)


def test_permutation_agrees_with_the_chi_square_test():
    rng = np.random.default_rng(0)
    sizes, rates = (200, 300, 250), (0.5, 0.58, 0.62)
    right = np.concatenate([rng.random(n) < rate for n, rate in zip(sizes, rates, strict=True)])
    parts = np.split(np.arange(750), np.cumsum(sizes)[:-1])
    table = [[right[part].sum(), len(part) - right[part].sum()] for part in parts]
    expected = chi2_contingency(table, correction=False).pvalue
    assert permutation_p(share(right), parts, resamples=20_000) == pytest.approx(expected, abs=0.01)


def test_difference_by_hand():
    found = difference(share([1, 1, 0, 0]), np.array([0, 1]), np.array([2, 3]))
    assert (found.value, found.low, found.high, found.n) == (1, 1, 1, 4)


def test_ddi_pairs_and_single_types_fall_together():
    lines = simulate(60)
    for number, line in enumerate(lines):
        line["fitzpatrick"] = (12, 34, 56, 1, 4, -1)[number % 6]
    found = by_groups(lines)
    pairs = found["fitzpatrick_pairs"]["top1"]["groups"]
    assert {name: figure["n"] for name, figure in pairs.items()} == {
        "I-II": 20, "III-IV": 20, "V-VI": 10, "unknown": 10,
    }  # fmt: skip
    assert set(found["fitzpatrick"]["top1"]["groups"]) == {"12", "34", "56", "1", "4", "unknown"}
    assert found["fitzpatrick_pairs"]["top1"]["in_test"] == ["I-II", "III-IV", "V-VI"]


def by_pairs(lines, measure="top1"):
    some, measured = groups.measures(lines)[measure]
    labels = [groups.PAIRS[str(line["fitzpatrick"])] for line in some]
    return groups._compared(measured, labels, ["I-II", "III-IV", "V-VI"])


def test_planted_gap_is_found_and_no_gap_is_not():
    held, found_out, false_alarms = 0, 0, 0
    for seed in range(20):
        apart = by_pairs(simulate(300, seed=seed, skin_accuracy=(0.8, 0.7, 0.5)))
        held += covers(apart["dark_minus_light"], -0.3)
        found_out += apart["p"] < 0.05
        same = simulate(150, seed=seed)
        false_alarms += sum(by_pairs(same, m)["p"] < 0.05 for m in ("top1", "concept_micro_f1"))
    assert held >= 17
    assert found_out >= 18
    assert false_alarms <= 6


def test_one_class_alone_small_groups_and_no_skin_type():
    lines = simulate(12)
    for line in lines:
        line |= {"class": lines[0]["class"], "fitzpatrick": None, "concepts": None}
    found = by_groups(lines)
    assert list(found) == ["class"]
    assert list(found["class"]) == ["top1", "top1_text"]
    assert (found["class"]["top1"]["gap"], found["class"]["top1"]["p"]) == (None, None)
    lines[0]["class"] = "dermatitis"
    one = by_groups(lines)["class"]["top1"]
    assert one["groups"]["dermatitis"]["n"] == 1
    assert "dermatitis" not in one["in_test"]
    assert groups.MIN_CASES == 5
