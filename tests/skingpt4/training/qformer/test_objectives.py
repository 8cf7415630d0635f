"""The objectives: what each is zero for, who sees whom, and that they can be learnt."""

import pytest
import torch

from skingpt4.model.qformer import QFormer
from skingpt4.training.qformer.objectives import (
    Pretraining,
    Weights,
    contrastive,
    decorrelation,
    grid_targets,
)
from skingpt4.training.qformer.vocabulary import GENERATE, PAD
from tests.support.tiny import qformer_config

WIDTH = 24


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Pretraining(QFormer(qformer_config(), WIDTH, text=True), WIDTH, 1, 20, 7).eval()


@pytest.fixture
def tokens():
    return torch.randn(6, 17, WIDTH, generator=torch.Generator().manual_seed(1))


WORDS = torch.tensor(
    [[4, 5, 6, PAD], [7, 8, PAD, PAD], [9, PAD, PAD, PAD], [10, 11, 12, 13], [14, 5, 6, 7], [PAD] * 4]
)


def test_targets_are_the_means_of_the_cells():
    tokens = torch.arange(17.0)[None, :, None].expand(1, 17, 2)  # a class token, then 4 x 4 patches
    assert grid_targets(tokens, 1, 4)[0, :, 0].tolist() == [3.5, 5.5, 11.5, 13.5]


def test_queries_see_no_word_of_a_text_that_is_generated(model, tokens):
    begun = torch.cat([torch.full((6, 1), GENERATE), WORDS], dim=1)
    alone, _ = model.read(tokens, None, causal=True)
    with_text, states = model.read(tokens, begun, causal=True)
    torch.testing.assert_close(with_text, alone)
    changed = begun.clone()
    changed[:, 3] = 15
    _, others = model.read(tokens, changed, causal=True)
    torch.testing.assert_close(others[:, :3], states[:, :3])  # a word sees only those before it
    assert not torch.allclose(others[:, 3], states[:, 3])
    matched, _ = model.read(tokens, begun, causal=False)
    assert not torch.allclose(matched[0], alone[0])


def test_only_objectives_with_a_weight_are_computed(model, tokens):
    losses, queries = model(tokens, tokens, WORDS, Weights(matching=1.0, generation=1.0))
    assert set(losses) == {"reconstruction", "decorrelation", "contrastive", "matching", "generation"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert queries.shape == (6, 4, 32)
    losses, _ = model(tokens, tokens, WORDS, Weights(1.0, 0, 0, 0, 0))
    assert set(losses) == {"reconstruction"}
    losses, _ = model(tokens, tokens, torch.full((6, 4), PAD), Weights(generation=1.0))
    assert set(losses) == {"reconstruction", "decorrelation"}


def test_fitted_heads_read_more_than_random_ones(model, tokens):
    before = model.reconstruction(model.read(tokens, None, True)[0], tokens)
    model.start_heads(tokens)
    assert model.reconstruction(model.read(tokens, None, True)[0], tokens) < 0.8 * before


def test_decorrelation_is_zero_for_white_queries():
    white = torch.linalg.qr(torch.randn(64, 4, generator=torch.Generator().manual_seed(0))).Q
    white = white - white.mean(0)
    white = torch.linalg.qr(white).Q[:, None] * 63**0.5  # (64, 1, 4), unit covariance
    assert decorrelation(white).item() == pytest.approx(0, abs=1e-3)
    assert decorrelation(torch.cat([white, white], dim=-1)).item() > 0.9  # each dimension twice
    assert decorrelation(0.1 * white).item() > 0.5


def test_equal_captions_share_the_credit():
    words = torch.tensor([[4, 5], [4, 5], [6, 7]])
    matched = 50.0 * torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
    assert contrastive(matched, words).item() == pytest.approx(
        2 / 3 * torch.tensor(2.0).log().item(), abs=1e-4
    )


def test_what_a_caption_says_is_written_large(model, tokens):
    """The odds of a caption are its scalar product with the mean query, whose spread nothing but the queries sets."""
    queries = torch.randn(6, 4, 32, generator=torch.Generator().manual_seed(2))
    likeness = model.likeness(queries, WORDS)
    torch.testing.assert_close(model.likeness(2 * queries, WORDS), 2 * likeness)
    # No query is better than another.
    torch.testing.assert_close(model.likeness(queries.flip(1), WORDS), likeness)
    assert "directions" not in dict(model.named_parameters())
    torch.testing.assert_close(model.directions @ model.directions.T, torch.eye(32))


def test_a_caption_is_learnt(model, tokens):
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    values = []
    for _ in range(40):
        losses, _ = model(tokens, tokens, WORDS, Weights(0, 0, 1.0, 1.0, 1.0))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        values.append({name: loss.item() for name, loss in losses.items()})
    assert values[-1]["generation"] < 0.7 * values[0]["generation"]
    assert values[-1]["contrastive"] < 0.7 * values[0]["contrastive"]
