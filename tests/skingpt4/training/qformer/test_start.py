"""The start of a Q-Former's training: queries that pool cells of a grid, from tokens whose content is known."""

import numpy as np
import pytest
import torch

from skingpt4.model.qformer import QFormer
from skingpt4.training.qformer.start import centres, grid_of, grid_of_queries, start_as_pooling
from tests.support.tiny import qformer_config

WIDTH, SIDE, COUNT = 24, 8, 200


def planted(num_prefix=1, seed=0):
    """Tokens (n, 1 + 64, 24) that hold their position, and content of their own: (tokens, content of the patches)."""
    rng = torch.Generator().manual_seed(seed)
    xy = centres(SIDE, SIDE)
    place = torch.cat([xy, xy.square().sum(1, keepdim=True)], dim=1)  # (64, 3)
    directions = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=rng)).Q
    content = torch.randn(COUNT, SIDE * SIDE, 12, generator=rng)
    patches = place @ directions[:3] + content @ directions[4:16]
    prefix = torch.randn(COUNT, num_prefix, 8, generator=rng) @ directions[16:24] + 3 * directions[3]
    return torch.cat([prefix, patches], dim=1) + 0.5, content


def qformer(num_queries=16):
    torch.manual_seed(0)
    return QFormer(qformer_config(num_query_tokens=num_queries), WIDTH).eval()


def test_grids():
    assert grid_of(64) == (8, 8)
    assert grid_of(50) == (1, 50)
    assert grid_of_queries(16) == (4, 4)
    assert grid_of_queries(32) == (4, 8)
    assert grid_of_queries(7) == (1, 7)
    assert centres(1, 2).tolist() == [[-0.5, 0], [0.5, 0]]


@pytest.mark.parametrize("num_prefix", [0, 1])
def test_each_query_holds_its_cell_and_no_other(num_prefix):
    tokens, content = planted(num_prefix)
    model = qformer()
    statistics = start_as_pooling(model, tokens, num_prefix)
    assert statistics.position_r2 > 0.9
    cells = content.unflatten(1, (4, 2, 4, 2)).mean((2, 4)).flatten(1, 2)  # (n, 16, 12)
    with torch.no_grad():
        queries = model(tokens)

    def explained(query, cell):
        inputs = (queries[:, query] - queries[:, query].mean(0)).double().numpy()
        target = (cells[:, cell] - cells[:, cell].mean(0)).double().numpy()
        # The norms leave directions without variance, which a least-squares fit has to pass over.
        left = target - inputs @ np.linalg.lstsq(inputs, target, rcond=1e-4)[0]
        return 1 - float(np.square(left).sum() / np.square(target).sum())

    own = [explained(cell, cell) for cell in range(16)]
    others = [explained(cell, (cell + 5) % 16) for cell in range(16)]
    assert min(own) > max(others)
    assert sum(own) / 16 > 0.9


def test_the_class_token_has_its_part_of_the_attention():
    tokens, _ = planted()
    model = qformer()
    start_as_pooling(model, tokens, 1)
    attention = model.model.encoder.layer[0].crossattention.attention
    states = model.model.encoder.layer[0].attention.output.LayerNorm(
        model.model.layernorm(model.query_tokens[0])
    )
    size = attention.attention_head_size
    logits = attention.query(states)[:, :size] @ attention.key(tokens)[..., :size].transpose(1, 2) / size**0.5
    # Balanced in the mean of the logarithms, so the mean of the fractions is near a third.
    assert logits.softmax(-1)[..., 0].mean().item() == pytest.approx(1 / 3, abs=0.05)
