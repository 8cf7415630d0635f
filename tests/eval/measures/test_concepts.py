import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from eval.measures.concepts import hallucinations, named_concepts, scored_concepts, weighted_auroc
from skingpt4.taxonomy.taxonomy import CONCEPTS
from tests.support.simulated import covers, simulate


def line(there, named, scores=None):
    return {"concepts": there, "predicted_concepts": named, "concept_scores": scores}


# Three cases: 1 found; 1 found and 1 added that no case has; 2 missed. A fourth has unknown concepts.
LINES = [
    line(["Papule"], ["Papule"], {"Papule": 2.0, "Ulcer": 0.0, "Scale": 1.0}),
    line(["Ulcer"], ["Ulcer", "Scale"], {"Papule": 1.0, "Ulcer": 1.0, "Scale": 1.0}),
    line(["Papule", "Ulcer"], [], {"Papule": 1.0, "Ulcer": -1.0, "Scale": 0.0}),
    line(None, ["Scale"], {"Papule": 9.0, "Ulcer": 9.0, "Scale": 9.0}),
]


def test_named_concepts_by_hand():
    found = named_concepts(LINES)
    assert found["num_cases"] == 3
    assert found["micro"]["precision"]["value"] == pytest.approx(2 / 3)
    assert found["micro"]["recall"]["value"] == pytest.approx(2 / 4)
    assert found["macro"]["precision"]["value"] == 1  # the added one has no case, so no row
    assert found["macro"]["recall"]["value"] == pytest.approx(1 / 2)
    assert found["macro"]["f1"]["value"] == pytest.approx(2 / 3)
    assert list(found["per_concept"]) == ["Papule", "Ulcer"]
    assert found["per_concept"]["Papule"]["num_positive"] == 2
    assert found["per_concept"]["Papule"]["recall"]["n"] == 2
    assert "Scale" in found["never_positive"]
    assert len(found["never_positive"]) == len(CONCEPTS) - 2


def test_hallucinations_by_hand():
    found = hallucinations(LINES)
    assert (found["share_of_named"]["value"], found["cases_with_one"]["value"]) == (
        pytest.approx(1 / 3), pytest.approx(1 / 3))  # fmt: skip
    assert found["per_case"]["n"] == 3
    assert found["most_frequent"] == {"Scale": 1}
    assert hallucinations([line([], [])])["share_of_named"]["value"] is None


def test_auroc_by_hand():
    # Papule: positives 2, 1 against 1: 1.5 of 2 pairs. Ulcer: positives 1, -1 against 0: 1 of 2. Scale: no positive.
    found = scored_concepts(LINES)
    assert found["per_concept"]["Papule"]["value"] == pytest.approx(0.75)
    assert found["per_concept"]["Ulcer"]["value"] == pytest.approx(0.5)
    assert found["macro"]["value"] == pytest.approx(0.625)
    assert found["left_out"] == ["Scale"]
    assert found["num_cases"] == 3


def test_weighted_auroc_is_that_of_repeated_items():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 5, 30).astype(float), rng.integers(0, 2, 30)
    weights = rng.integers(0, 4, (8, 30))
    for row, value in zip(weights, weighted_auroc(scores, positive, weights), strict=True):
        assert value == pytest.approx(roc_auc_score(np.repeat(positive, row), np.repeat(scores, row)))
    assert np.isnan(weighted_auroc(scores, np.zeros(30), weights)).all()


@pytest.mark.parametrize("measure", [named_concepts, scored_concepts, hallucinations])
def test_no_concept_known(measure):
    assert measure([line(None, ["Scale"])] * 3) == {}


def test_nobody_has_a_concept():
    found = named_concepts([line([], ["Scale"]), line([], [])])
    assert found["macro"]["f1"]["value"] is None
    assert found["per_concept"] == {}


def test_planted_concepts_are_recovered():
    held = {"precision": 0, "recall": 0, "f1": 0, "auroc": 0, "macro": 0, "hallucinated": 0}
    precision = 0.3 * 0.8 / (0.3 * 0.8 + 0.7 * 0.1)
    for seed in range(12):
        lines = simulate(seed=seed)
        found, scored = named_concepts(lines), scored_concepts(lines, resamples=500)
        held["precision"] += covers(found["micro"]["precision"], precision)
        held["recall"] += covers(found["micro"]["recall"], 0.8)
        held["f1"] += covers(found["micro"]["f1"], 2 * precision * 0.8 / (precision + 0.8))
        held["auroc"] += covers(scored["micro"], 0.8556)  # of two normals 1.5 apart
        held["macro"] += covers(scored["macro"], 0.8556)
        held["hallucinated"] += covers(hallucinations(lines)["share_of_named"], 1 - precision)
    assert all(count >= 9 for count in held.values()), held
