"""Regression from pictures' vectors to labels: what is planted is found, and unknown labels are not zeros."""

import pytest
import torch

from skingpt4.config.schema import PromptConfig
from skingpt4.records.manifest import read_manifest
from skingpt4.training.start.labels import Labels, labels_of
from skingpt4.training.start.regression import regress
from tests.support.tiny import write_manifest


def planted(num_records=400, num_vectors=4, width=12, seed=0):
    """Vectors whose mean holds two labels along two directions, beside noise within each picture."""
    generator = torch.Generator().manual_seed(seed)
    values = (torch.rand(num_records, 2, generator=generator) > 0.5).float()
    directions = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q[:2]
    noise = torch.randn(num_records, num_vectors, width, generator=generator)
    vectors = (values @ directions)[:, None] * 3 + 0.1 * noise + 5.0
    rows = torch.arange(num_records)
    return vectors, Labels(("a", "b"), 1, values, (rows, rows))


def test_planted_labels_are_found_in_the_mean_of_a_pictures_vectors():
    vectors, labels = planted()
    weight, bias = regress(lambda row: vectors[row], labels)
    predicted = (vectors.double() @ weight.T + bias).mean(1)
    assert (predicted - labels.values).abs().mean() < 0.05
    assert ((predicted > 0.5) == (labels.values > 0.5)).float().mean() > 0.99


def test_a_label_is_fitted_where_it_is_known():
    """Half of the records do not know label b, and hold no trace of it in their values."""
    vectors, labels = planted()
    known = torch.arange(200)
    blank = labels.values.clone()
    blank[200:, 1] = 0.0
    weight, bias = regress(lambda row: vectors[row], Labels(labels.names, 1, blank, (labels.known[0], known)))
    predicted = (vectors.double() @ weight.T + bias).mean(1)
    assert (predicted[200:, 1] - labels.values[200:, 1]).abs().mean() < 0.05


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
