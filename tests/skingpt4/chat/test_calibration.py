import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.special import expit, softmax

from skingpt4.chat import calibration, calibration_fit, calibration_readings
from skingpt4.chat.calibration import CalibrationError
from skingpt4.chat.calibration_fit import fit, fit_concepts
from skingpt4.chat.calibration_readings import FOLDS, PLAIN, READINGS, fit_reading, fit_temperature, spread_of
from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.identity import identity
from skingpt4.cli import calibrate
from skingpt4.config.load import to_yaml
from skingpt4.records.comparing.overlap import image_hashes
from skingpt4.records.manifest import read_manifest
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS, class_disease
from tests.support.tiny import make_encoder, make_model, tiny_config, write_manifest

DISEASES = {name: class_disease(name) for name in CLASSES}


def drawn(n: int, temperature: float, seed: int = 0):
    """Scores that are `temperature` times too sharp for the classes drawn from them, and concepts likewise."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (n, 15))
    truth = np.array([rng.choice(15, p=row) for row in softmax(logits, axis=1)])
    concept_scores = rng.normal(-8, 2, (n, 48))
    present = rng.random((n, 48)) < expit(0.9 * (concept_scores + 9))
    return logits * temperature, truth, concept_scores, present


def test_a_planted_temperature_and_threshold_are_found():
    scores, truth, concept_scores, present = drawn(1500, 3.0)
    assert fit_temperature(scores, truth) == pytest.approx(3.0, rel=0.1)
    fitted = fit(scores, truth, concept_scores, present, np.ones(1500, bool), DISEASES, 0.7)
    m = fitted.measures
    assert m["nll_after"] < m["nll_before"] - 0.3
    assert m["ece_after"] < 0.05 < 0.2 < m["ece_before"]
    probability = fitted.class_probabilities(scores).max(axis=1)
    right = scores.argmax(axis=1) == truth
    confident = probability >= fitted.threshold
    assert right[confident].mean() >= 0.7
    assert (m["kept_at_threshold"], m["right_at_threshold"]) == (confident.sum(), right[confident].sum())
    # On new draws too, as nearly as 1500 pictures tell.
    scores, truth, *_ = drawn(1500, 3.0, seed=1)
    confident = fitted.class_probabilities(scores).max(axis=1) >= fitted.threshold
    assert (scores.argmax(axis=1) == truth)[confident].mean() == pytest.approx(0.7, abs=0.06)


def test_planted_slopes_of_concepts_are_found_and_beat_the_frequencies():
    *_, scores, present = drawn(800, 1.0)
    platts = fit_concepts(scores, present, CONCEPTS)
    assert set(platts) == set(CONCEPTS)
    assert platts["Papule"].slope == pytest.approx(0.9, rel=0.1)
    assert platts["Papule"].intercept == pytest.approx(8.1, rel=0.15)
    assert platts["Papule"].positives == present[:, CONCEPTS.index("Papule")].sum()
    fitted = fit(*drawn(200, 1.0), np.ones(200, bool), DISEASES)
    assert fitted.measures["concept_nll_after"] < fitted.measures["concept_nll_share_alone"] - 0.1


def test_rare_concepts_and_scores_without_meaning_get_no_probability():
    *_, scores, present = drawn(60, 1.0)
    present[:, 0], present[:, 1] = False, True
    present[:4, 0] = True
    platts = fit_concepts(scores, present, CONCEPTS)
    assert CONCEPTS[0] not in platts
    assert CONCEPTS[1] not in platts
    assert fit_concepts(-scores, present, CONCEPTS) == {}  # the likelier a concept, the rarer it is seen
    assert fit_concepts(scores, np.zeros_like(present), CONCEPTS) == {}


def test_chance_gets_no_threshold_and_too_little_no_calibration():
    scores, _, concept_scores, present = drawn(100, 1.0)
    wrong = (scores.argmax(axis=1) + 1) % 15
    fitted = fit(scores, wrong, concept_scores, present, np.zeros(100, bool), DISEASES)
    assert fitted.threshold is None
    assert fitted.concepts == {}
    assert "not confident" in calibration_fit.report(fitted)
    with pytest.raises(CalibrationError, match="too few"):
        fit(scores[:29], wrong[:29], concept_scores[:29], present[:29], np.ones(29, bool), DISEASES)
    scores[0, 0] = np.nan
    with pytest.raises(CalibrationError, match="not finite"):
        fit(scores, wrong, concept_scores, present, np.ones(100, bool), DISEASES)


def test_a_planted_prior_is_taken_off_by_folds_that_do_not_see_their_cases(monkeypatch):
    """Sentences that are favoured whatever a picture shows."""
    rng = np.random.default_rng(3)
    logits, truth, concept_scores, present = drawn(400, 1.0)
    prior = rng.normal(0, 4, 15)
    by_reading = {(w, 0.0): logits + prior - w * prior for w in (0.0, 0.5, 1.0)}
    fitted = fit(by_reading, truth, concept_scores, present, np.zeros(400, bool), DISEASES)
    assert fitted.prior_weight == 1.0
    assert fitted.temperature == pytest.approx(1, rel=0.15)
    m = fitted.measures
    assert m["accuracy"] > m["accuracy_with_prior"] + 0.1
    assert m["nll_after"] < m["nll_before"] - 1
    # No fold's measures come from a weight that its own cases chose.
    folds = np.random.default_rng(0).permutation(400) % FOLDS
    seen = []
    monkeypatch.setattr(
        calibration_readings,
        "fit_reading",
        lambda each, truth: seen.append(truth) or fit_reading(each, truth),
    )
    fit(by_reading, truth, concept_scores, present, np.zeros(400, bool), DISEASES)
    assert len(seen) == FOLDS
    for fold, others in enumerate(seen):
        assert np.array_equal(others, truth[folds != fold])
    # Chance keeps the model's own scores.
    assert (
        fit({PLAIN: logits}, truth, concept_scores, present, np.zeros(400, bool), DISEASES).prior_weight
        == 0.0
    )


def test_scores_of_which_some_vary_more_are_divided_by_their_spread():
    """A long name's score falls by many nats, a short one's by a few; both mean the same."""
    rng = np.random.default_rng(5)
    truth = rng.integers(15, size=600)
    evidence = 2.0 * np.eye(15)[truth] + rng.normal(size=(600, 15))
    steep = np.geomspace(0.2, 8, 15)
    scores = steep * (evidence - 3)
    by_reading = {
        (weight, power): (scores - weight * scores.mean(0)) / spread_of(scores, power)
        for weight, power in READINGS
    }
    fitted = fit(
        by_reading, truth, np.zeros((600, 48)), np.zeros((600, 48), bool), np.zeros(600, bool), DISEASES
    )
    assert fitted.measures["spread_power"] == 1.0
    assert fitted.measures["accuracy"] > fitted.measures["accuracy_with_prior"] + 0.2
    assert np.median(spread_of(scores, 1.0)) == pytest.approx(1.0)
    assert np.array_equal(spread_of(np.zeros((3, 2)), 0.0), np.ones(2))


# --- the command ---------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A checkpoint of a tiny model that knows its training and its evaluation, and a held-out manifest."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calibration_fit, "MIN_CASES", 6)
    for number, name in enumerate(("train", "held_out", "evaluation")):
        write_manifest(tmp_path / f"{name}.jsonl", count=8, first=8 * number, **{"class": "herpes"})
        lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        rows = [
            json.loads(line) | {"case_id": f"{name}-{n}", "source": "made"} for n, line in enumerate(lines)
        ]
        for n, row in enumerate(rows):
            row["class"] = CLASSES[n % 3]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tiny_config(tmp_path, data__evaluation=[str(tmp_path / "evaluation.jsonl")])
    model = make_model(tmp_path, encoder=make_encoder())
    card = {"config": asdict(config), "step": "step1", **identity(config, model)}
    folder = tmp_path / "run" / "checkpoints" / "000001"
    checkpoint.save(folder, model.projection.state_dict(), card,
                    seen=image_hashes(read_manifest(tmp_path / "train.jsonl")))  # fmt: skip
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(config))
    return tmp_path


def test_the_command_writes_beside_the_checkpoint_what_the_chat_reads(run, capsys):
    given = ["--checkpoint", "run", "--manifest", "held_out.jsonl"]
    assert calibrate.main([*given, "--dry-run"]) == 0
    assert calibration.load("run") is None
    assert calibrate.main(given) == 0
    assert "n = 8 pictures" in capsys.readouterr().out
    fitted = calibration.load("run")
    assert fitted.n == 8
    assert fitted.data["manifest"] == "held_out.jsonl"
    assert fitted.data["sources"] == ["made"]
    assert {"nll_before", "nll_after", "ece_before", "ece_after"} <= set(fitted.measures)
    assert fitted.describe() == "held_out.jsonl, n = 8"


def test_with_a_card_that_names_diseases_the_calibration_holds_what_was_scored(run, capsys):
    path = run / "run/checkpoints/000001/checkpoint.json"
    taught = [{"disease": "tinea pedis", "class": "fungal_infections", "records": 4}]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"diseases": taught}))
    assert calibrate.main(["--checkpoint", "run", "--manifest", "held_out.jsonl"]) == 0
    assert "16 diseases scored" in capsys.readouterr().out
    fitted = calibration.load("run")
    assert fitted.closed_set[0] == {"name": "tinea pedis", "class_name": "fungal_infections", "records": 4}
    assert len(fitted.closed_set) == 16
    assert (fitted.prior_weight, fitted.measures["spread_power"]) in READINGS
    assert len(fitted.prior) == len(fitted.spread) == 16
    assert min(fitted.spread) > 0
    assert all(score < 0 for score in fitted.prior)
    assert fitted.diseases["fungal_infections"] == "tinea pedis"


@pytest.mark.parametrize(
    ("manifest", "message"), [("train.jsonl", "training shares"), ("evaluation.jsonl", "evaluation's")]
)
def test_pictures_of_training_or_evaluation_are_refused(run, manifest, message, capsys):
    assert calibrate.main(["--checkpoint", "run", "--manifest", manifest]) == 1
    assert message in capsys.readouterr().err
    assert calibration.load("run") is None


def test_pictures_that_cannot_be_compared_with_the_training_are_refused_unless_allowed(run, capsys):
    card = json.loads((run / "run/checkpoints/000001/checkpoint.json").read_text())
    del card["seen_sha256"]
    card["config"]["data"]["train"] = ["gone.jsonl"]
    (run / "run/checkpoints/000001/checkpoint.json").write_text(json.dumps(card))
    (run / "evaluation.jsonl").unlink()
    given = ["--checkpoint", "run", "--manifest", "held_out.jsonl", "--dry-run"]
    assert calibrate.main(given) == 1
    assert "it has no hashes of them, and gone.jsonl does not exist; calibrate on" in capsys.readouterr().err
    assert calibrate.main([*given, "--allow-overlap"]) == 0
    captured = capsys.readouterr()
    assert "8 pictures, see the notes on overlap; nothing was written" in captured.out
    assert "evaluation.jsonl was not checked: it does not exist" in captured.err


def test_too_few_pictures_and_a_wrong_target_are_refused_before_scoring(run, capsys, monkeypatch):
    monkeypatch.setattr(calibration_fit, "score_records", None)
    monkeypatch.setattr(calibration_fit, "MIN_CASES", 9)
    assert calibrate.main(["--checkpoint", "run", "--manifest", "held_out.jsonl"]) == 1
    assert "too few" in capsys.readouterr().err
    given = ["--checkpoint", "run", "--manifest", "held_out.jsonl", "--target-accuracy"]
    assert calibrate.main([*given, "80"]) == 1
    assert "between 0 and 1" in capsys.readouterr().err
