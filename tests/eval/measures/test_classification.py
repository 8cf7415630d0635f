import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score

from eval.measures import classification
from eval.measures.classification import NO_ANSWER, by_likelihood, by_text
from eval.measures.intervals import case_draws
from tests.support.simulated import covers, simulate

TRUTH = ["a", "a", "b", "c"]
NAMED = ["a", "b", "b", "z"]


def line(true, scores, text):
    outcome = "asserted" if text else "negated"
    return {"class": true, "class_scores": scores, "text_class": text, "text_outcome": outcome}


def test_macro_measures_by_hand():
    # Recall 1/2, 1, 0; F1 2/3, 2/3, 0: 'z' is never there and has no mean of its own.
    assert classification.balanced_accuracy(TRUTH, NAMED).value == pytest.approx(0.5)
    assert classification.macro_f1(TRUTH, NAMED).value == pytest.approx(4 / 9)


def test_resamples_are_what_scikit_learn_says_of_them():
    rng = np.random.default_rng(0)
    truth, named = rng.choice(list("abc"), 40), rng.choice(list("abcd"), 40)
    _, counts = classification._class_counts(truth, named)
    draws = case_draws(40, 20, 3)
    recall = classification._macro(counts, 0, 3, 20)
    f1 = classification._macro(counts, 1, 3, 20)
    for row in range(20):
        which = np.repeat(np.arange(40), draws[row].astype(int))
        there = sorted(set(truth[which]))
        options = {"labels": there, "average": "macro", "zero_division": 0}
        assert recall[row] == pytest.approx(recall_score(truth[which], named[which], **options))
        assert f1[row] == pytest.approx(f1_score(truth[which], named[which], **options))


def test_likelihood_and_text_by_hand():
    scores = {"a": -1, "b": -2, "c": -3, "d": -4}
    found = by_likelihood([line("a", scores, None), line("b", scores, None), line("d", scores, None)])
    assert (found["top1"]["value"], found["top3"]["value"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert "top5" not in found
    assert found["confusion"] == {
        "classes": ["a", "b", "c", "d"],
        "counts": [[1, 0, 0, 0], [1, 0, 0, 0], [0] * 4, [1, 0, 0, 0]],
    }
    assert found["per_class"]["a"]["precision"]["n"] == 3
    assert found["per_class"]["b"] == {
        "recall": {**found["per_class"]["b"]["recall"], "value": 0.0},
        "precision": None,
    }
    text = by_text([line("a", scores, "a"), line("b", scores, None), line("d", scores, "a")])
    assert text["accuracy"]["value"] == pytest.approx(1 / 3)
    assert text["committed"]["value"] == pytest.approx(2 / 3)
    assert (text["accuracy_committed"]["value"], text["accuracy_committed"]["n"]) == (0.5, 2)
    assert text["outcomes"]["negated"]["value"] == pytest.approx(1 / 3)
    assert text["confusion"]["classes"][-1] == NO_ANSWER
    assert text["confusion"]["counts"][1][-1] == 1


def test_a_text_that_never_commits_and_one_class_alone():
    scores = {"a": -1, "b": -2}
    text = by_text([line("a", scores, None)] * 3)
    assert text["accuracy_committed"] is None
    assert text["accuracy"]["value"] == 0
    assert by_likelihood([line("a", scores, None)] * 3)["macro_f1"] == {
        "value": 1.0, "low": 1.0, "high": 1.0, "n": 3,
    }  # fmt: skip


def test_planted_accuracies_are_recovered():
    held = {"top1": 0, "balanced_accuracy": 0, "text": 0, "committed": 0}
    for seed in range(20):
        lines = simulate(accuracy=0.6, seed=seed)
        found, text = by_likelihood(lines), by_text(lines)
        held["top1"] += covers(found["top1"], 0.6)
        held["balanced_accuracy"] += covers(found["balanced_accuracy"], 0.6)
        held["text"] += covers(text["accuracy"], 0.6 * 0.8)
        held["committed"] += covers(text["committed"], 0.8)
        assert found["top5"]["n"] == 150
    assert all(count >= 16 for count in held.values()), held
