"""Triage against a reference: known answers, the dermatologists' majority, and what is left out."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from eval.asking.urgency import URGENCY
from eval.rating.questionnaire import LAY_URGENCY_WORDS, URGENCY_WORDS
from eval.rating.ratings import Rating
from eval.rating.summary import summary
from eval.rating.urgency import LISTED, MAJORITY, against_reference, majority, urgency_summary


def rated(item, values, rater="r1", role="lay", arm="a"):
    return [
        Rating(arm, f"c{n}", rater, item, value, role=role)
        for n, value in enumerate(values)
        if value is not None
    ]


def test_every_urgency_has_words_in_both_forms():
    assert tuple(URGENCY_WORDS) == tuple(LAY_URGENCY_WORDS) == URGENCY


def test_kappa_is_that_of_scikit_learn_and_shares_are_counts():
    rng = np.random.default_rng(0)
    truth = [URGENCY[n] for n in rng.integers(4, size=80)]
    said = [URGENCY[min(3, max(0, URGENCY.index(t) + int(rng.integers(-1, 2))))] for t in truth]
    reference = {f"c{n}": value for n, value in enumerate(truth)}
    result = against_reference(rated("urgency", said), reference, resamples=200)
    expected = cohen_kappa_score(truth, said, labels=list(URGENCY), weights="quadratic")
    assert result["kappa"]["value"] == pytest.approx(expected, abs=1e-12)
    assert result["kappa"]["low"] < expected < result["kappa"]["high"]
    assert result["kappa"]["n"] == 80
    less = sum(URGENCY.index(s) < URGENCY.index(t) for s, t in zip(said, truth, strict=True))
    assert result["less_urgent"]["value"] == pytest.approx(less / 80)
    assert sum(result[name]["value"] for name in ("exact", "less_urgent", "more_urgent")) == pytest.approx(1)
    assert np.trace(result["counts"]) == round(80 * result["exact"]["value"])
    assert np.array(result["counts"]).sum(axis=1).tolist() == [truth.count(value) for value in URGENCY]


def test_a_hand_made_table():
    """Reference 0 0 3 3; one rater right, one who always says one step too low where that is possible."""
    reference = dict(zip(("c0", "c1", "c2", "c3"), ("self-care", "self-care", "today", "today"), strict=True))
    right = rated("urgency", reference.values())
    low = rated("urgency", ["self-care", "self-care", "soon", "soon"], rater="r2")
    assert against_reference(right, reference, 50)["kappa"]["value"] == 1
    # Squared differences: 0, 0, 1, 1, so 0.5 on average; by chance (0 + 4 + 9 + 1) / 4 = 3.5.
    assert against_reference(low, reference, 50)["kappa"]["value"] == pytest.approx(1 - 0.5 / 3.5, abs=1e-12)
    both = against_reference(right + low, reference, 50)
    assert both["kappa"]["value"] == pytest.approx((1 + 1 - 0.5 / 3.5) / 2)
    assert (both["num_ratings"], both["raters"], both["exact"]["value"]) == (8, 2, 0.75)


def test_one_answer_for_all_has_no_kappa_and_no_rating_no_figures():
    reference = {"c0": "soon", "c1": "soon"}
    assert against_reference(rated("urgency", ["soon", "soon"]), reference, 20)["kappa"]["value"] is None
    assert against_reference(rated("urgency", ["soon"]), {"other": "soon"}, 20) is None


def test_majority_is_of_dermatologists_before_the_text_and_a_tie_is_the_more_urgent():
    votes = [
        *rated("own_urgency", ["soon", "today", "routine"], "d1", "dermatologist"),
        *rated("own_urgency", ["soon", "self-care", "routine"], "d2", "dermatologist"),
        *rated("own_urgency", ["today", "self-care", "soon"], "d3", "dermatologist"),
        *rated("own_urgency", [None, "today", None], "d4", "dermatologist"),
        *rated("own_urgency", ["today", "routine", "today"], "p1", "physician"),
        *rated("urgency", ["today", "routine", "today"], "d1", "dermatologist"),
    ]
    assert majority(votes) == ({"c0": "soon", "c1": "today", "c2": "routine"}, 1)


def test_planted_triage_is_found_by_arm_and_role():
    """Lay users who follow a good text see a doctor as dermatologists would; a bad one tells them to wait."""
    rng = np.random.default_rng(1)
    truth = [URGENCY[n] for n in rng.integers(4, size=60)]
    rows = []
    for name in ("d1", "d2", "d3"):
        rows += rated("own_urgency", truth, name, "dermatologist")
    for name in ("l1", "l2"):
        rows += rated("own_urgency", [URGENCY[n] for n in rng.integers(4, size=60)], name)
        rows += rated("urgency", truth, name, arm="good")
        rows += rated("urgency", ["self-care"] * 60, name, arm="bad")
    triage = urgency_summary(rows, {}, resamples=200)
    assert (triage["reference"], triage["num_cases"], triage["ties"]) == (MAJORITY, 60, 0)
    assert triage["arms"]["good"]["lay"]["kappa"]["value"] == 1
    assert triage["arms"]["bad"]["lay"]["kappa"]["value"] == 0
    assert triage["arms"]["bad"]["lay"]["less_urgent"]["value"] == pytest.approx(
        sum(value != "self-care" for value in truth) / 60
    )
    assert triage["own"]["lay"]["kappa"]["low"] < 0 < triage["own"]["lay"]["kappa"]["high"]
    assert "dermatologist" not in triage["own"], "they are the reference"
    listed = urgency_summary(rows, {f"c{n}": value for n, value in enumerate(truth)}, resamples=50)
    assert listed["reference"] == LISTED
    assert listed["own"]["dermatologist"]["kappa"]["value"] == 1
    assert urgency_summary(rated("own_urgency", truth), {}) == {}, (
        "without dermatologists there is no reference"
    )


def test_the_summary_keeps_roles_apart():
    rows = [
        *(Rating("a", f"c{n}", "d1", "suggestions", "5", role="dermatologist") for n in range(6)),
        *(Rating("a", f"c{n}", "l1", "suggestions", "1", role="lay") for n in range(6)),
        *(Rating("a", f"c{n}", "l2", "suggestions", "2", role="lay") for n in range(6)),
    ]
    result = summary(rows, resamples=10)
    assert result["roles"] == {"dermatologist": 1, "lay": 2}
    shares = {
        role: of["arms"]["a"]["suggestions"]["agree"]["value"] for role, of in result["by_role"].items()
    }
    assert shares == {"dermatologist": 1, "lay": 0}
    assert result["arms"]["a"]["suggestions"]["num_ratings"] == 18
    assert "urgency" not in result
    assert "by_role" not in summary(rows[:6], resamples=10)
    old = summary([Rating("a", "c1", "r1", "diagnosis", "4")], resamples=10)
    assert old["roles"] == {"unknown": 1}
