"""What a card says of queries: how their energy is spread, and how much of it the labels explain."""

from pathlib import Path

import pytest
import torch

from skingpt4.records.record import Record
from skingpt4.training.qformer.run import fraction_explained, query_statistics, shown_labels


def test_the_fraction_that_labels_explain():
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(400, 3, generator=generator) > 0.5).float()
    shifts = 4 * torch.randn(3, 8, generator=generator)
    noise = torch.randn(400, 2, 8, generator=generator)
    alone = fraction_explained((labels @ shifts)[:, None] + 5, labels)
    assert alone > 0.99
    varying = float((labels @ shifts - (labels @ shifts).mean(0)).square().sum(1).mean())
    mixed = fraction_explained((labels @ shifts)[:, None] + noise, labels)
    assert mixed == pytest.approx(varying / (varying + 8), abs=0.05)
    assert abs(fraction_explained(noise, labels)) < 0.03


def test_without_labels_nothing_is_explained():
    """A manifest of pictures alone is enough for a training, whose card must not fail at its end."""
    records = [Record(Path(f"{number}.jpg")) for number in range(4)]
    assert shown_labels(records).shape == (4, 0)
    assert fraction_explained(torch.randn(4, 2, 8), shown_labels(records)) is None
    one = [Record(Path("0.jpg"), class_name="herpes", concepts=("Papule",))]
    assert shown_labels(one).tolist() == [[1.0, 1.0]]
    assert fraction_explained(torch.randn(1, 2, 8), shown_labels(one)) is None


def test_statistics_of_white_queries():
    white = torch.randn(2000, 1, 8, generator=torch.Generator().manual_seed(0))
    statistics = query_statistics(white)
    assert statistics["energy"] == pytest.approx(8, rel=0.05)
    assert statistics["effective_rank"] == pytest.approx(8, abs=0.1)
    assert statistics["constant_fraction"] < 0.01
