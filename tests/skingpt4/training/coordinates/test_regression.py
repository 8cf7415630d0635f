"""Regression from pictures' vectors to labels: what is planted is found, and unknown labels are not zeros."""

import pytest
import torch

from skingpt4.config.schema import PromptConfig
from skingpt4.records.manifest import read_manifest
from skingpt4.training.coordinates.labels import Labels, labels_of
from skingpt4.training.coordinates.regression import discriminants
from tests.support.tiny import write_manifest


def planted(num_records=400, num_vectors=4, width=12, seed=0):
    """A concept and three diseases along directions of their own, beside noise within each picture."""
    generator = torch.Generator().manual_seed(seed)
    concept = (torch.rand(num_records, 1, generator=generator) > 0.5).float()
    disease = torch.eye(3)[torch.randint(3, (num_records,), generator=generator)]
    values = torch.cat([concept, disease], 1)
    directions = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q[:4]
    noise = torch.randn(num_records, num_vectors, width, generator=generator)
    vectors = (values @ directions)[:, None] * 3 + 0.1 * noise + 5.0
    rows = torch.arange(num_records)
    return vectors, Labels(("concept", "a", "b", "c"), 1, values, (rows, rows))


def log_odds(vectors, labels):
    weight, centre = discriminants(lambda row: vectors[row], labels)
    return ((vectors.double() - centre) @ weight.T).mean(1)


def test_planted_labels_are_found_in_the_mean_of_a_pictures_vectors():
    vectors, labels = planted()
    found = log_odds(vectors, labels)
    assert found.mean(0).abs().max() < 1e-6
    assert ((found[:, 0] > 0) == (labels.values[:, 0] > 0)).float().mean() > 0.98
    assert (found[:, 1:].argmax(1) == labels.values[:, 1:].argmax(1)).float().mean() > 0.98


def test_a_label_is_fitted_where_it_is_known():
    """Half of the records do not know their concept, and hold no trace of it in their values."""
    vectors, labels = planted()
    blank = labels.values.clone()
    blank[200:, 0] = 0.0
    found = log_odds(vectors, Labels(labels.names, 1, blank, (torch.arange(200), labels.known[1])))
    assert ((found[200:, 0] > 0) == (labels.values[200:, 0] > 0)).float().mean() > 0.95


@pytest.mark.parametrize("num_diseases", [0, 1, 2])
def test_few_diseases(num_diseases):
    vectors, labels = planted()
    rows = torch.arange(400)
    kept = labels.values[:, 1:].argmax(1) < num_diseases
    known = (rows, rows[kept])
    few = Labels(labels.names[: 1 + num_diseases], 1, labels.values[:, : 1 + num_diseases], known)
    found = log_odds(vectors, few)
    assert found.shape == (400, 1 + num_diseases)
    if num_diseases == 1:
        assert not found[:, 1].any(), "one disease alone says nothing"
    if num_diseases == 2:
        right = found[kept][:, 1:].argmax(1) == labels.values[kept][:, 1:].argmax(1)
        assert right.float().mean() > 0.98


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        (
            PromptConfig(),
            ["Papule", "Scale", "Erythema", "Plaque", "acne", "eczema", "melanoma", "psoriasis"],
        ),
        (PromptConfig(use_disease=False), ["Papule", "Scale", "Erythema", "Plaque"]),
        (PromptConfig(use_concepts=False), ["acne", "eczema", "melanoma", "psoriasis"]),
    ],
)
def test_labels_are_those_that_the_step_teaches(prompt, names, tmp_path):
    records = read_manifest(write_manifest(tmp_path / "train.jsonl", count=12))
    labels = labels_of(records, prompt)
    assert set(labels.names) == set(names)
    for row, record in enumerate(records):
        own = {name for name, value in zip(labels.names, labels.values[row], strict=True) if value}
        expected = set(record.concepts or ()) if prompt.use_concepts else set()
        expected |= {record.disease} if prompt.use_disease else set()
        assert own == expected


def test_records_without_a_label_are_not_known(tmp_path):
    records = read_manifest(write_manifest(tmp_path / "train.jsonl", count=3, concepts=None))
    labels = labels_of(records, PromptConfig())
    assert labels.num_concepts == 0
    assert [len(rows) for rows in labels.known] == [0, 3]
