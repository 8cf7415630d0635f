import numpy as np
import pytest

from eval.measures import calibration
from tests.support.simulated import covers, simulate


def outcomes(num_cases, seed, shift=0.0):
    """Confidences, and outcomes that are right with the confidence less `shift`."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.3, 1, num_cases)
    return confidence, (rng.random(num_cases) < confidence - shift).astype(float)


def test_probabilities_are_a_softmax():
    lines = [{"class": "b", "class_scores": {"a": 0.0, "b": np.log(3.0)}}]
    p, confidence, right = calibration.probabilities(lines)
    assert p[0].tolist() == pytest.approx([0.25, 0.75])
    assert (confidence[0], right[0]) == (pytest.approx(0.75), 1)


def test_error_and_brier_by_hand():
    confidence, right = np.array([0.6, 0.6, 0.9, 0.9]), np.array([1.0, 0, 1, 1])
    found = calibration.expected_error(confidence, right)
    # Four bins of one case each: (0.4 + 0.6 + 0.1 + 0.1) / 4.
    assert found["ece"]["value"] == pytest.approx(0.3)
    assert [b["n"] for b in found["bins"]] == [1, 1, 1, 1]
    lines = [{"class": "a", "class_scores": {"a": np.log(3.0), "b": 0.0}}] * 2
    assert calibration.calibration(lines)["brier"]["value"] == pytest.approx(2 * 0.25**2)


def test_bins_hold_equal_numbers():
    sizes = [len(part) for part in calibration.equal_mass_bins(np.linspace(0, 1, 23))]
    assert (len(sizes), sum(sizes), max(sizes) - min(sizes)) == (10, 23, 1)


def test_a_calibrated_model_is_not_accused_and_an_overconfident_one_is():
    accused, found_out, held = 0, 0, 0
    for seed in range(40):
        accused += calibration.expected_error(*outcomes(150, seed))["p"] < 0.05
        confidence, right = outcomes(150, seed, shift=0.2)
        error = calibration.expected_error(confidence, right)
        found_out += error["p"] < 0.05
        held += covers(calibration.ratio_interval(confidence - right).to_dict(), 0.2)
        assert error["ece"]["n"] == 150
        assert error["ece"]["value"] > error["ece_if_calibrated"]["value"]
    assert accused <= 6
    assert found_out >= 36
    assert held >= 35


def test_planted_error_is_within_its_interval():
    # All 20 points too sure: every bin errs by 0.2, and with 2000 cases chance adds little.
    assert covers(calibration.expected_error(*outcomes(2000, 1, shift=0.2))["ece"], 0.2)


def test_selective_risk_by_hand():
    confidence, right = np.array([0.9, 0.8, 0.7, 0.6]), np.array([1.0, 1, 0, 1])
    found = calibration.selective_risk(confidence, right)
    assert found["curve"]["coverage"] == [0.25, 0.5, 0.75, 1]
    assert found["curve"]["risk"] == pytest.approx([0, 0, 1 / 3, 1 / 4])
    assert found["aurc"]["value"] == pytest.approx((1 / 3 + 1 / 4) / 4)
    half = next(entry for entry in found["at"] if entry["coverage"] == 0.5)
    assert (half["threshold"], half["risk"]["n"]) == (0.8, 2)


def test_equal_confidence_has_the_plain_error_rate():
    found = calibration.selective_risk(np.full(10, 0.5), np.array([1.0] * 7 + [0] * 3))
    assert found["aurc"]["value"] == pytest.approx(0.3)
    assert found["curve"]["coverage"] == [1.0]


def test_threshold_by_hand():
    confidence, right = np.array([0.9, 0.8, 0.7, 0.6]), np.array([1.0, 1, 0, 1])
    assert calibration.choose_threshold(confidence, right, 0.25) == 0.6
    assert calibration.choose_threshold(confidence, right, 0.1) == 0.8
    assert calibration.choose_threshold(confidence, 0 * right, 0.1) is None
    assert calibration.not_confident(confidence, 0 * right, 0.1)["risk"] is None


def test_a_threshold_keeps_its_promise_on_new_cases():
    found = calibration.not_confident(*outcomes(3000, 5))
    new_confidence, new_right = outcomes(20000, 6)
    kept = new_confidence >= found["threshold"]
    assert covers(found["coverage"], kept.mean())
    assert covers(found["risk"], 1 - new_right[kept].mean())


def test_everything_of_an_arm_has_n_and_interval():
    found = calibration.calibration(simulate())
    for name in ("mean_confidence", "overconfidence", "brier", "ece"):
        assert found[name]["n"] == 150
        assert found[name]["low"] <= found[name]["high"]
