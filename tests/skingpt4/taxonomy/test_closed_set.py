"""Which diseases are scored, and how their scores become those of classes."""

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from skingpt4.taxonomy.closed_set import MAX_SCORED, ClosedSet, Disease
from skingpt4.taxonomy.taxonomy import CLASSES, class_disease, disease_class


def taught(**records: int) -> list[dict]:
    names = {name.replace("_", " "): count for name, count in records.items()}
    return [{"disease": n, "class": disease_class(n), "records": count} for n, count in names.items()]


def test_everything_that_was_taught_is_scored_and_the_taxonomys_disease_of_each_other_class():
    closed = ClosedSet.of_training(taught(tinea_pedis=9, Tinea_corporis=30, alopecia_areata=4, wart=3))
    names = [disease.name for disease in closed.diseases]
    assert names[:4] == ["Tinea corporis", "tinea pedis", "alopecia areata", "wart"]
    assert [disease.class_name for disease in closed.diseases[2:4]] == ["others", None]
    assert set(names[4:]) == {class_disease(name) for name in CLASSES}
    assert closed.representatives["fungal_infections"] == "Tinea corporis"
    assert closed.representatives["herpes"] == class_disease("herpes")
    assert ClosedSet.of_rows(closed.to_rows()).diseases == closed.diseases


def test_spellings_in_other_capitals_are_one_disease_and_synonyms_stand_for_the_taxonomys():
    rows = taught(Acne_vulgaris=5) + taught(acne_vulgaris=20, bcc=2)
    closed = ClosedSet.of_training(rows)
    assert closed.diseases[0] == Disease("acne vulgaris", "acne_and_rosacea", 25)
    assert "acne" not in {disease.name for disease in closed.diseases}
    assert "basal cell carcinoma" not in {disease.name for disease in closed.diseases}


def test_a_name_that_was_taught_as_another_class_does_not_leave_its_class_empty():
    closed = ClosedSet.of_training([{"disease": "acne", "class": "dermatitis", "records": 7}])
    assert set(closed.representatives) == set(CLASSES)
    assert len({disease.name for disease in closed.diseases}) == len(closed)


def test_of_too_many_the_commonest_are_scored_and_the_commonest_of_each_class():
    rows = [{"disease": f"eczema {n}", "class": "dermatitis", "records": 5000 - n} for n in range(700)]
    rows += [{"disease": "rare blister", "class": "bullous_disease", "records": 1}]
    closed = ClosedSet.of_training(rows)
    assert len(closed) == MAX_SCORED
    assert closed.representatives["bullous_disease"] == "rare blister"
    assert [disease.name for disease in closed.diseases[:3]] == ["eczema 0", "eczema 1", "eczema 2"]


def test_a_class_is_the_sum_over_its_diseases():
    closed = ClosedSet.of_training(taught(tinea_pedis=10, tinea_corporis=30, wart=3))
    rng = np.random.default_rng(0)
    scores, prior = rng.normal(-5, 3, (4, len(closed))), rng.normal(-9, 3, len(closed))
    own = closed.class_scores(scores, prior, 0.0)
    assert own.shape == (4, 15)
    fungal = [n for n, d in enumerate(closed.diseases) if d.class_name == "fungal_infections"]
    place = CLASSES.index("fungal_infections")
    np.testing.assert_allclose(own[:, place], logsumexp(scores[:, fungal], axis=1))
    # Weight 1: by how much the image raises each sentence, mixed by the shares of training (half a record for none).
    records = np.array([max(closed.diseases[n].records, 0.5) for n in fungal])
    raised = np.exp(scores[:, fungal] - prior[fungal]) @ (records / records.sum())
    np.testing.assert_allclose(closed.class_scores(scores, prior, 1.0)[:, place], np.log(raised))


def test_with_the_prior_off_neither_likely_words_nor_many_diseases_favour_a_class():
    """Sentences that the image does not touch leave all classes alike, whatever the text alone says."""
    closed = ClosedSet.of_training(taught(tinea_pedis=10, tinea_corporis=30, scabies=2))
    prior = np.random.default_rng(1).normal(-9, 4, len(closed))
    np.testing.assert_allclose(closed.class_scores(prior, prior, 1.0), 0, atol=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_diseases_share_the_probability_of_their_class(temperature):
    closed = ClosedSet.of_training(taught(tinea_pedis=10, tinea_corporis=30, psoriasis=5))
    rng = np.random.default_rng(2)
    scores, prior = rng.normal(-5, 3, (6, len(closed))), rng.normal(-9, 3, len(closed))
    p = closed.probabilities(scores, prior, 0.4, temperature)
    by_class = softmax(closed.class_scores(scores, prior, 0.4) / temperature, axis=1)
    for number, name in enumerate(CLASSES):  # none of these diseases is outside the 15 classes
        own = [n for n, disease in enumerate(closed.diseases) if disease.class_name == name]
        np.testing.assert_allclose(p[:, own].sum(axis=1), by_class[:, number])
    if temperature == 1:
        np.testing.assert_allclose(closed.probabilities(scores, prior, 0.0), softmax(scores, axis=1))
