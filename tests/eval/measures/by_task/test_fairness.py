import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.measures.by_task.fairness import compare_fairness, fairness


def line(number, group, positive, log_odds):
    return {
        "case_id": f"c{number}", "class": "malignant" if positive else "benign", "groups": {"tone": group},
        "class_scores": {"benign": -1.0, "malignant": -1.0 + log_odds}, "cluster": number,
    }  # fmt: skip


# Group 12: positives +1, -1; negatives -2, +2. Sensitivity 1/2, specificity 1/2; of the 4 pairs +1 > -2 and -1 > -2
# are in order: AUC 2/4. Group 56: positives -1, -3; negatives -2, -4. Sensitivity 0/2, specificity 2/2, pairs 3 of 4.
ROWS = [
    ("12", True, 1.0), ("12", True, -1.0), ("12", False, -2.0), ("12", False, 2.0),
    ("56", True, -1.0), ("56", True, -3.0), ("56", False, -2.0), ("56", False, -4.0),
]  # fmt: skip


def values(table, name):
    return [table["groups"][name][measure]["value"] for measure in ("sensitivity", "specificity", "auc")]


def test_the_table_of_eight_cases_by_hand():
    table = fairness([line(n, *row) for n, row in enumerate(ROWS)], "malignant", "tone", min_cases=2)
    assert list(table["groups"]) == ["all", "12", "56"]
    assert values(table, "12") == [0.5, 0.5, 0.5]
    assert values(table, "56") == [0.0, 1.0, 0.75]
    # All: positives 1, -1, -1, -3 and negatives -2, 2, -2, -4: 1 of 4, 3 of 4, and 3 + 3 + 3 + 1 of 16 pairs.
    assert values(table, "all") == [0.25, 0.75, 0.625]
    assert table["groups"]["12"]["sensitivity"]["n"] == 2
    assert (table["groups"]["56"]["n"], table["groups"]["56"]["num_positive"]) == (4, 2)
    gaps = {m: (g["highest"], g["lowest"], g["value"]) for m, g in table["gaps"].items()}
    assert gaps == {
        "sensitivity": ("12", "56", 0.5),
        "specificity": ("56", "12", 0.5),
        "auc": ("56", "12", 0.25),
    }
    ends = {m: (g["first"], g["last"], g["value"]) for m, g in table["last_minus_first"].items()}
    assert ends == {
        "sensitivity": ("12", "56", -0.5),
        "specificity": ("12", "56", 0.5),
        "auc": ("12", "56", 0.25),
    }
    low, high = (table["gaps"]["auc"][key] for key in ("low", "high"))
    assert low < 0.25 < high


def test_few_cases_have_no_interval_of_a_bootstrap():
    table = fairness([line(n, *row) for n, row in enumerate(ROWS)], "malignant", "tone")
    for figure in (
        table["groups"]["12"]["auc"],
        table["gaps"]["auc"],
        table["last_minus_first"]["specificity"],
    ):
        assert figure["value"] is not None
        assert (figure["low"], figure["high"]) == (None, None)
    assert table["groups"]["56"]["sensitivity"]["high"] > 0.5  # 0 of 2, Wilson


def test_an_unknown_group_counts_among_all_only():
    table = fairness(
        [line(n, *row) for n, row in enumerate([*ROWS, ("unknown", True, 9.0)])], "malignant", "tone"
    )
    assert table["groups"]["all"]["n"] == 9
    assert table["groups"]["unknown"]["sensitivity"]["value"] == 1.0
    assert table["groups"]["unknown"]["auc"]["value"] is None
    assert {table["gaps"]["sensitivity"][end] for end in ("highest", "lowest")} == {"12", "56"}


def test_one_group_has_no_gap():
    assert fairness([line(n, *row) for n, row in enumerate(ROWS[:4])], "malignant", "tone")["gaps"] == {}


def test_two_arms_on_the_same_cases():
    first = [line(n, *row) for n, row in enumerate(ROWS)]
    second = [
        line(n, group, positive, 5.0 if positive else -5.0) for n, (group, positive, _) in enumerate(ROWS)
    ]
    compared = compare_fairness(second, first, "malignant", "tone")
    # The second is right everywhere: 1 - 0.25 of sensitivity, and no gap against one of -0.5.
    assert compared["sensitivity"]["difference"]["value"] == 0.75
    assert compared["sensitivity"]["gap_difference"]["value"] == 0.5
    assert compared["auc"]["difference"]["value"] == 0.375
    same = compare_fairness(first, first, "malignant", "tone")
    for measure in same.values():  # paired: an arm does not differ from itself in any draw
        assert [measure["difference"][key] for key in ("value", "low", "high")] == [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="other cases"):
        compare_fairness(first, second[1:], "malignant", "tone")


cases = st.lists(
    st.tuples(st.sampled_from(["12", "34", "56"]), st.booleans(), st.floats(-5, 5).filter(lambda x: abs(x) > 1e-3)),
    min_size=2, max_size=14,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(cases, st.randoms())
def test_the_order_of_cases_and_the_name_of_the_positive_class_do_not_matter(rows, rng):
    lines = [line(n, *row) for n, row in enumerate(rows)]
    table = fairness(lines, "malignant", "tone", resamples=20)
    shuffled = list(lines)
    rng.shuffle(shuffled)
    again = fairness(shuffled, "malignant", "tone", resamples=20)
    other = fairness(lines, "benign", "tone", resamples=20)
    for name in table["groups"]:
        assert values(again, name) == pytest.approx(values(table, name), nan_ok=True) or None in values(
            table, name
        )
        sensitivity, specificity, auc = values(table, name)
        assert values(other, name)[:2] == [specificity, sensitivity]
        if auc is not None:
            assert values(other, name)[2] == pytest.approx(auc)
    assert all(gap["value"] >= 0 for gap in table["gaps"].values())
