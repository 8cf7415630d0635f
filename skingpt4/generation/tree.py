"""Texts with common beginnings, read as one row that holds each beginning once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from skingpt4.generation.engine.decoder import EngineDecoder, scoring_engine
from skingpt4.model.loss import log_probabilities
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import IMAGE_TOKEN


class Tree:
    """Texts with common beginnings, merged into one row that contains each beginning once.

    The mask lets each token see only its own text, and its position is that in its text. So the row's outputs are
    those of the texts read one by one, without padding or copies of a cache (tree attention, as in SpecInfer,
    arXiv 2305.09781).

    Args:
        texts: token ids, IMAGE_TOKEN where an image's vectors stand.
        starts: of each text, its first token whose probability counts (not 0).
        queries: (images, q, d) shown in each text; None without images.
        with_ends: whether the last token of a text is read too. The token before it gives its probability, so
            nothing needs it; of hundreds of short texts it is a fifth of the row.
    """

    def __init__(
        self,
        texts: Sequence[Sequence[int]],
        starts: Sequence[int],
        queries: Tensor | None,
        with_ends: bool = True,
    ) -> None:
        self.starts, self._queries = starts, queries
        self.ids: list[int] = []
        self.parents: list[int] = []  # of each token the one before it, -1 at the root
        self.depths: list[int] = []
        self.paths: list[list[int]] = []  # of each text its tokens in the tree
        places: dict[tuple[int, int], int] = {}
        for text in texts:
            path: list[int] = []
            for depth, token in enumerate(text):
                parent = path[-1] if path else -1
                path.append(places.setdefault((parent, token), len(self.ids)))
                if path[-1] == len(self.ids):
                    self.ids.append(token)
                    self.parents.append(parent)
                    self.depths.append(depth)
            self.paths.append(path)
        self.counted = sorted({n for path, s in zip(self.paths, starts, strict=True) for n in path[s:]})
        # The tokens in the row, and of each its column.
        self.read = list(range(len(self.ids))) if with_ends else sorted({*self.parents} - {-1})
        self.columns = {node: column for column, node in enumerate(self.read)}

    @property
    def vectors(self) -> Tensor | None:
        """(vectors, d) at the places of images, in the row's order."""
        if self._queries is None:
            return None
        order: dict[int, int] = {}
        for path in self.paths:
            order |= {n: k for k, n in enumerate(n for n in path if self.ids[n] == IMAGE_TOKEN)}
        return self._queries.flatten(0, 1)[[order[n] for n in sorted(order)]]

    def sees(self) -> Tensor:
        """(n, n) bool: a token of the row sees itself and the tokens before it in its text."""
        seen = torch.eye(len(self.read), dtype=torch.bool)
        for column, node in enumerate(self.read):
            if self.parents[node] >= 0:
                seen[column] |= seen[self.columns[self.parents[node]]]
        return seen

    def before(self, node: int) -> list[int]:
        """The tokens of a text up to this one, which is the last."""
        path = []
        while node >= 0:
            path.append(node)
            node = self.parents[node]
        return path[::-1]

    def sums(self, log_probs: Tensor) -> Tensor:
        """(texts,) sums of the log-probabilities (tokens in `counted`,)."""
        place = {node: number for number, node in enumerate(self.counted)}
        each = [[place[n] for n in path[s:]] for path, s in zip(self.paths, self.starts, strict=True)]
        return torch.stack([log_probs[numbers].sum() for numbers in each])

    def texts(self) -> list[Tree]:
        """Each text as its own tree."""
        rows = [[self.ids[n] for n in path] for path in self.paths]
        return [Tree([row], [start], self._queries) for row, start in zip(rows, self.starts, strict=True)]


def split_texts(texts: Sequence[Sequence[int]], width: int) -> list[list[int]]:
    """Numbers of the texts in groups whose trees are about equally wide, each at most about as wide as allowed.

    Attention in a row costs the square of its width, although nearly all of it is masked; several rows read what all
    texts share once each. Texts that share more than that stand in the same group where possible.

    Args:
        texts: token ids.
        width: tokens of a group beside those that all texts begin with.
    """
    order = sorted(range(len(texts)), key=lambda number: list(texts[number]))
    shared = num_shared([texts[order[0]], texts[order[-1]]])  # of sorted texts these two differ first
    fresh = [len(texts[order[0]]) - shared]
    fresh += [len(texts[b]) - num_shared([texts[a], texts[b]]) for a, b in pairwise(order)]
    num_groups = max(1, round(sum(fresh) / width))
    groups: list[list[int]] = [[] for _ in range(num_groups)]
    for number, so_far in zip(order, accumulate(fresh), strict=True):
        groups[min(num_groups - 1, (so_far - 1) * num_groups // max(1, sum(fresh)))].append(number)
    return [group for group in groups if group]


def num_shared(rows: Sequence[Sequence[int]]) -> int:
    """How many ids all rows begin with; at least one of each row is left over."""
    shared = 0
    while all(len(row) > shared + 1 for row in rows) and len({row[shared] for row in rows}) == 1:
        shared += 1
    return shared


def read_trees(model: SkinGPT4, trees: Sequence[Tree], max_tokens: int = 2048) -> list[Tensor]:
    """The sums of each tree's texts, fp32 on the CPU.

    Args:
        model: the network.
        trees: each becomes one row.
        max_tokens: read in one pass; one row may exceed it.
    """
    engine = scoring_engine(model)
    if engine is not None:
        return [_read_there(engine, model, tree) for tree in trees]
    masked = takes_trees(model, max(max(tree.depths) for tree in trees))
    # Each text is a row of its own where trees cannot be read; no token sees the padding on its right.
    rows = trees if masked else [text for tree in trees for text in tree.texts()]
    sums = [
        row.sums(log_probs)
        for batch in _batches(rows, max_tokens)
        for row, log_probs in zip(batch, _pass(model, batch, masked), strict=True)
    ]
    return list(torch.cat(sums).split([len(tree.paths) for tree in trees]))


def _read_there(engine: EngineDecoder, model: SkinGPT4, tree: Tree) -> Tensor:
    """The sums of a tree's texts by an engine, which is asked what may follow each of its tokens."""
    vectors = tree.vectors
    embeds = model.embed(torch.tensor([tree.ids]), None if vectors is None else vectors[None])[0].cpu()
    following: dict[int, list[int]] = {}
    for node in tree.counted:
        following.setdefault(tree.parents[node], []).append(node)
    asked = [(embeds[tree.before(node)], [tree.ids[n] for n in nodes]) for node, nodes in following.items()]
    found: dict[int, float] = {}
    for nodes, scores in zip(following.values(), engine.log_probabilities(asked), strict=True):
        found |= dict(zip(nodes, scores, strict=True))
    return tree.sums(torch.tensor([found[node] for node in tree.counted]))


def takes_trees(model: SkinGPT4, deepest: int) -> bool:
    """Whether the language model reads trees: not without a mask that separates branches (ALiBi, flash attention).

    Nor where a window looks back through other branches.

    Args:
        model: the network.
        deepest: the last position of any text.
    """
    window = getattr(model.language_model.config.get_text_config(decoder=True), "sliding_window", None)
    return model.language_model.takes_mask and not (window and deepest >= window)


def _batches(trees: Sequence[Tree], max_tokens: int) -> Iterator[Sequence[Tree]]:
    size = max(1, max_tokens // max(len(tree.read) for tree in trees))
    for first in range(0, len(trees), size):
        yield trees[first : first + size]


def _pass(model: SkinGPT4, trees: Sequence[Tree], masked: bool) -> list[Tensor]:
    """Log-probabilities of each tree's counted tokens, from one pass over rows that are padded on the right."""
    lm, device = model.language_model, model.language_model.input_device
    length = max(len(tree.read) for tree in trees)
    ids, depths = torch.zeros(2, len(trees), length, dtype=torch.long)
    for row, tree in enumerate(trees):
        ids[row, : len(tree.read)] = torch.tensor([tree.ids[n] for n in tree.read])
        depths[row, : len(tree.read)] = torch.tensor([tree.depths[n] for n in tree.read])
    vectors = [tree.vectors for tree in trees if tree.vectors is not None]
    embeds = model.embed(ids, torch.cat(vectors)[None] if vectors else None)
    inputs: dict[str, Any] = {}
    if masked:
        seen = torch.eye(length, dtype=torch.bool).repeat(len(trees), 1, 1)
        for row, tree in zip(seen, trees, strict=True):
            row[: len(tree.read), : len(tree.read)] = tree.sees()
        mask = torch.zeros(seen.shape, dtype=embeds.dtype).masked_fill(~seen, torch.finfo(embeds.dtype).min)
        inputs = {"attention_mask": mask[:, None].to(device), "position_ids": depths.to(device)}
    # A token's probability is given by the output at the token before it.
    counted = [
        (row, tree.columns[tree.parents[n]], tree.ids[n])
        for row, tree in enumerate(trees)
        for n in tree.counted
    ]
    rows, columns, tokens = torch.tensor(counted).T
    log_probs = log_probabilities(lm, embeds, rows, columns, tokens, **inputs).cpu()
    return list(log_probs.split([len(tree.counted) for tree in trees]))
