"""Where a Q-Former's training starts: each query already pools one cell of a grid over the image.

From random weights a Q-Former has to find by gradient descent that a query may look at one place and hand on what it
sees, which took BLIP-2 millions of images. Where a patch lies can be read from its token by linear regression, and an
attention that falls off with the distance from a cell's centre is linear in (x, y, x^2 + y^2); so the first
cross-attention can be written down. Its values are the tokens' principal components, with the variance of large ones
reduced. All other branches start at zero, so what the backbone saw passes through unchanged, but for the norms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skingpt4.model.qformer import QFormer

WIDTH_OF_CELL = 0.4  # standard deviation of the attention around a cell's centre, in cells
CLASS_TOKEN = 1 / 3  # of a query's attention
WHITENING = 0.75  # 0 leaves the variances of principal components as they are, 1 makes them equal
RESIDUAL = 0.3  # amplitude of a query's own vector beside what it sees
RIDGE = 1e-3  # of the regression of positions, relative to the tokens' mean variance


def grid_of(num_patches: int) -> tuple[int, int]:
    """Rows and columns of the patches: a square if they form one, otherwise one row."""
    side = math.isqrt(num_patches)
    return (side, side) if side * side == num_patches else (1, num_patches)


def grid_of_queries(num_queries: int) -> tuple[int, int]:
    """Rows and columns of the squarest grid that has a cell for each query."""
    rows = max(n for n in range(1, math.isqrt(num_queries) + 1) if num_queries % n == 0)
    return rows, num_queries // rows


def centres(rows: int, columns: int) -> Tensor:
    """The centres (rows * columns, 2) of a grid's cells over the square from -1 to 1, as (x, y), row by row."""
    y, x = (((torch.arange(n) + 0.5) / n * 2 - 1) for n in (rows, columns))
    return torch.stack([x.repeat(rows), y.repeat_interleave(columns)], dim=1)


@dataclass(frozen=True)
class TokenStatistics:
    """What is needed of a sample of tokens: (n, t, d), of which the first `num_prefix` are no patches."""

    mean: Tensor  # (d,)
    components: Tensor  # (d, d) principal directions of the patches as columns, largest variance first
    variances: Tensor  # (d,)
    positions: Tensor  # (d, 4): token minus mean to x, y, x^2 + y^2 and whether it is the class token
    offsets: Tensor  # (4,) added to them
    position_r2: float  # fraction of the variance of x and y that the regression explains


def token_statistics(tokens: Tensor, num_prefix: int) -> TokenStatistics:
    """Statistics of a sample of the backbone's tokens (n, t, d)."""
    count, length, width = tokens.shape
    rows, columns = grid_of(length - num_prefix)
    xy = centres(rows, columns).double()
    target = torch.zeros(length, 4, dtype=torch.float64)
    target[num_prefix:, :2], target[num_prefix:, 2] = xy, xy.square().sum(1)
    target[:num_prefix, 3] = 1
    mean = tokens[:, num_prefix:].double().mean((0, 1))
    # The class token is one of many: it counts as much as a tenth of the patches.
    weight = torch.ones(length, dtype=torch.float64)
    weight[:num_prefix] = max(1.0, 0.1 * (length - num_prefix))
    offsets = (weight[:, None] * target).sum(0) / weight.sum()
    covariance = torch.zeros(width, width, dtype=torch.float64)
    second, cross = torch.zeros_like(covariance), torch.zeros(width, 4, dtype=torch.float64)
    for image in tokens:
        centred = image.double() - mean
        covariance += centred[num_prefix:].T @ centred[num_prefix:]
        second += centred.T @ (weight[:, None] * centred)
        cross += centred.T @ (weight[:, None] * (target - offsets))
    covariance /= count * (length - num_prefix)
    second.diagonal().add_(RIDGE * second.diagonal().mean())
    positions = torch.linalg.solve(second, cross)
    variances, components = torch.linalg.eigh(covariance)
    residual = (tokens[:, num_prefix:].double() - mean) @ positions[:, :2] + offsets[:2] - xy
    r2 = 1 - residual.square().mean() / xy.square().mean()
    return TokenStatistics(
        mean.float(), components.flip(1).float(), variances.flip(0).clamp_min(0).float(),
        positions.float(), offsets.float(), float(r2),
    )  # fmt: skip


@torch.no_grad()
def start_as_pooling(qformer: QFormer, tokens: Tensor, num_prefix: int) -> TokenStatistics:
    """Write weights into a Q-Former with which query i pools cell i of a grid over the image.

    Args:
        qformer: as built; what this does not write stays random, behind branches that start at zero.
        tokens: (n, t, d) of a few hundred images.
        num_prefix: how many tokens precede the patches.

    Returns:
        What was computed from the tokens.
    """
    statistics = token_statistics(tokens, num_prefix)
    model: Any = qformer.model
    for layer in model.encoder.layer:
        branches = [layer.attention.output, layer.output_query]
        branches += [layer.crossattention.output] if layer.has_cross_attention else []
        for branch in branches:
            nn.init.zeros_(branch.dense.weight)
            nn.init.zeros_(branch.dense.bias)
    first = model.encoder.layer[0]
    first.attention.output.LayerNorm.weight.fill_(RESIDUAL)
    nn.init.orthogonal_(qformer.query_tokens[0])
    _write_attention(first.crossattention.attention, qformer, statistics)
    _write_values(first.crossattention, statistics)
    if num_prefix:
        _balance_class_token(first.crossattention.attention, qformer, tokens, num_prefix, statistics)
    return statistics


def written_parameters(qformer: QFormer) -> list[nn.Parameter]:
    """What `start_as_pooling` writes values other than zero into."""
    model: Any = qformer.model
    first = model.encoder.layer[0]
    return [
        qformer.query_tokens,
        *first.attention.output.LayerNorm.parameters(),
        *first.crossattention.parameters(),
    ]


def _first_states(qformer: QFormer) -> Tensor:
    """The states (q, width) of the queries where the first cross-attention reads them."""
    model: Any = qformer.model
    layer = model.encoder.layer[0]
    return layer.attention.output.LayerNorm(model.layernorm(qformer.query_tokens[0]))


def _write_attention(attention: Any, qformer: QFormer, statistics: TokenStatistics) -> None:
    """Keys tell where a token lies; queries ask for the neighbourhood of their cell's centre, in every head alike."""
    cells = centres(*grid_of_queries(qformer.num_query_tokens))
    size = attention.attention_head_size
    width_of_cell = 2 / math.sqrt(qformer.num_query_tokens)
    beta = 1 / (2 * (WIDTH_OF_CELL * width_of_cell) ** 2)
    asked = torch.zeros(len(cells), size)
    asked[:, :2], asked[:, 2], asked[:, 3] = 2 * beta * cells, -beta, beta * cells.square().sum(1)
    asked *= math.sqrt(size)
    states = _first_states(qformer)
    weight = (torch.linalg.pinv(states) @ asked).T  # (size, width)
    key = torch.zeros(size, len(statistics.mean))
    key[:4] = statistics.positions.T
    bias = torch.zeros(size)
    bias[:4] = statistics.offsets - statistics.mean @ statistics.positions
    heads = attention.num_attention_heads
    attention.query.weight.copy_(weight.repeat(heads, 1))
    attention.query.bias.zero_()
    attention.key.weight.copy_(key.repeat(heads, 1))
    attention.key.bias.copy_(bias.repeat(heads))


def _write_values(cross: Any, statistics: TokenStatistics) -> None:
    """Values are principal components, with large variances reduced, and the output is their own order."""
    width = cross.output.dense.weight.shape[0]
    count = min(width, len(statistics.mean))
    variances = statistics.variances[:count].clamp_min(1e-6 * float(statistics.variances[0]))
    scale = variances.pow(-WHITENING / 2)
    scale /= (variances * scale.square()).mean().sqrt()  # a component has unit variance in the mean
    value = cross.attention.value
    value.weight.zero_()
    value.weight[:count] = (statistics.components[:, :count] * scale).T
    value.bias.copy_(-value.weight @ statistics.mean)
    cross.output.dense.weight.copy_(torch.eye(width))


def _balance_class_token(
    attention: Any, qformer: QFormer, tokens: Tensor, num_prefix: int, statistics: TokenStatistics
) -> None:
    """Shift what the queries ask of the class token until it has its fraction of their attention."""
    size = attention.attention_head_size
    states = _first_states(qformer)
    query = attention.query(states)[:, :size]
    logits = query @ attention.key(tokens[:64])[..., :size].transpose(1, 2) / math.sqrt(size)  # (n, q, t)
    patches = logits[..., num_prefix:].logsumexp(-1).mean(0)
    prefix = logits[..., :num_prefix].logsumexp(-1).mean(0)
    shift = patches + math.log(CLASS_TOKEN / (1 - CLASS_TOKEN)) - prefix  # (q,)
    wanted = torch.zeros(len(states), size)
    wanted[:, 3] = shift * math.sqrt(size)
    change = (torch.linalg.pinv(states) @ wanted).T
    attention.query.weight.add_(change.repeat(attention.num_attention_heads, 1))
