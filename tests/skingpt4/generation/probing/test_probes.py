"""Probes against scikit-learn by hand, planted signals, and folds that divide nobody."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from eval.measures.probing import top1
from skingpt4.generation.probing import probes
from skingpt4.generation.probing.probes import FLOOR, ProbingError, fit_logistic, fit_neighbours, group_of
from skingpt4.records.record import Record

FITS = pytest.mark.parametrize("fit", [fit_logistic, fit_neighbours])


def clouds(count=90, classes=3, width=8, spread=0.2, seed=0):
    """Points about one centre a class; the labels in turn, each point its own group."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(classes, width))
    places = np.arange(count) % classes
    features = centres[places] + spread * rng.normal(size=(count, width))
    return features, [f"class{place}" for place in places], [f"case{n}" for n in range(count)]


@FITS
def test_a_planted_signal_is_recovered(fit):
    probe = fit(*clouds())
    features, labels, _ = clouds(seed=1)
    log_probs = probe.log_probabilities(features)
    assert probe.classes == ("class0", "class1", "class2")
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1)
    result = top1(log_probs, probe.classes, labels)
    assert result.value == 1
    assert result.n == 90


@FITS
def test_labels_without_a_signal_stay_at_chance(fit):
    features, labels, groups = clouds(300)
    rng = np.random.default_rng(3)
    probe = fit(rng.normal(size=features.shape), labels, groups)
    result = top1(probe.log_probabilities(rng.normal(size=features.shape)), probe.classes, labels)
    assert result.low < 1 / 3 < result.high


def test_the_regression_is_that_of_scikit_learn():
    features, labels, groups = clouds(spread=1.5)
    probe = fit_logistic(features, labels, groups, strengths=(0.1,))
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(C=0.1, max_iter=2000).fit(scaler.transform(features), labels)
    expected = model.predict_log_proba(scaler.transform(features))
    np.testing.assert_allclose(probe.log_probabilities(features), expected, atol=1e-9)


def test_two_classes_are_scored_as_by_scikit_learn():
    features, labels, groups = clouds(classes=2, spread=1.5)
    probe = fit_logistic(features, labels, groups, strengths=(0.1,))
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(C=0.1, max_iter=2000).fit(scaler.transform(features), labels)
    expected = model.predict_log_proba(scaler.transform(features))
    np.testing.assert_allclose(probe.log_probabilities(features), expected, atol=1e-9)


def test_neighbours_vote_by_hand():
    angles = np.deg2rad([0, 10, 80, 90, 95, 100])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array([[1], [9], [1], [5], [1], [1]])
    labels = ["a", "a", "b", "b", "b", "b"]
    probe = fit_neighbours(features, labels, list("123456"), neighbours=(3,))
    new = np.array([[np.cos(np.deg2rad(20)), np.sin(np.deg2rad(20))]])
    weights = np.exp(np.cos(np.deg2rad([10, 20, 60])) / 0.07)  # two of a, then one of b
    votes = np.array([weights[:2].sum(), weights[2]]) / weights.sum()
    np.testing.assert_allclose(
        probe.log_probabilities(new)[0], np.log((3 * votes + np.array([2, 4]) / 6) / 4)
    )


def test_the_folds_divide_no_group(monkeypatch):
    """A patient's picture repeated would make one neighbour perfect if it stood in both parts of a fold."""
    rng = np.random.default_rng(0)
    once = rng.normal(size=(40, 6))
    labels = [f"class{n}" for n in rng.integers(0, 2, 40)]
    groups = [f"patient{n}" for n in range(40)]
    twice = np.repeat(once, 3, axis=0)
    grouped = fit_neighbours(twice, np.repeat(labels, 3), np.repeat(groups, 3), neighbours=(1, 3))
    divided = fit_neighbours(
        twice, np.repeat(labels, 3), [str(n) for n in range(len(twice))], neighbours=(1, 3)
    )
    assert divided.settings["log_loss"]["1"] < 0.4 < grouped.settings["log_loss"]["1"]


def test_the_strength_follows_the_noise():
    """Much noise in many features asks for a strong penalty, clean clouds for a weak one."""
    rng = np.random.default_rng(1)
    labels = [f"class{n % 2}" for n in range(60)]
    groups = [str(n) for n in range(60)]
    signal = np.array([[1.0 if label == "class0" else -1.0] for label in labels])
    noisy = np.hstack([signal + 2 * rng.normal(size=(60, 1)), rng.normal(size=(60, 80))])
    clean = np.hstack([signal + 0.1 * rng.normal(size=(60, 1)), 0.01 * rng.normal(size=(60, 2))])
    assert fit_logistic(noisy, labels, groups).settings["C"] < 0.1
    assert fit_logistic(clean, labels, groups).settings["C"] > 1


@FITS
def test_the_same_seed_gives_the_same_bits(fit):
    features, labels, groups = clouds(spread=2)
    first, second = fit(features, labels, groups), fit(features, labels, groups)
    assert first.settings == second.settings
    assert (first.log_probabilities(features) == second.log_probabilities(features)).all()


@FITS
def test_a_class_without_examples_has_the_floor(fit):
    probe = fit(*clouds())
    log_probs = probe.log_probabilities(clouds()[0], ["class2", "other", "class0"])
    assert (log_probs[:, 1] == FLOOR).all()
    assert (log_probs[:, 0] == probe.log_probabilities(clouds()[0])[:, 2]).all()


@FITS
def test_a_class_with_one_example_is_no_obstacle(fit):
    features, labels, groups = clouds(31)
    labels[0] = "rare"
    assert "rare" in fit(features, labels, groups).classes


def test_groups_are_patients_then_cases_then_pictures():
    path = Path("x.png")
    assert group_of(Record(path, patient_id="p", case_id="c"), 0) == "patient_id p"
    assert group_of(Record(path, case_id="c", sha256="0" * 64), 0) == "case_id c"
    assert group_of(Record(path, sha256="0" * 64), 0) == f"sha256 {'0' * 64}"
    assert group_of(Record(path), 3) == "row 3"


@FITS
def test_what_cannot_be_fitted_is_refused(fit):
    features, labels, groups = clouds(12)
    with pytest.raises(ProbingError, match="two classes, the training has 1"):
        fit(features, ["same"] * 12, groups)
    with pytest.raises(ProbingError, match="one of each"):
        fit(features[:3], labels[:3], groups[:3])
    with pytest.raises(ProbingError, match="two patients or cases"):
        fit(features, labels, ["one"] * 12)
    with pytest.raises(ProbingError, match="not finite"):
        fit(np.where(features > 0, np.nan, features), labels, groups)
    with pytest.raises(ProbingError, match="larger training manifest"):
        fit(features, [f"class{n // 6}" for n in range(12)], [str(n // 6) for n in range(12)])


def test_the_candidates_are_listed():
    probe = fit_logistic(*clouds(30))
    assert list(probe.settings["log_loss"]) == [f"{c:g}" for c in probes.STRENGTHS]
    assert probe.settings["num_examples"] == 30
