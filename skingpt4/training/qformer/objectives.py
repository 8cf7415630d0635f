"""What a Q-Former is trained on: BLIP-2's three objectives (arXiv 2301.12597, section 3.1) and reconstruction.

Contrastive, matching and generation need captions. BLIP-2 compares a caption with the best query, through a trained
head, as a cosine; so a caption may lie in directions that hardly vary, which a projection finds only in many
updates. Here it is compared with the mean query along directions that are never trained, without normalising the
image's side, so what captions say has to be written large.

Reconstruction needs only images: query i must hold, readable by one linear map for all queries, the mean of the
backbone's patches in cell i of a grid, and the mean query the class token. Decorrelation (VICReg, arXiv 2105.04906)
keeps the queries' dimensions from repeating each other, since the projection that learns on them by gradient descent
is slow along directions of small variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skingpt4.model.qformer import QFormer
from skingpt4.training.qformer.start import grid_of, grid_of_queries
from skingpt4.training.qformer.vocabulary import CLASSIFY, GENERATE, PAD

SHARED_WIDTH = 128  # of the space in which images and texts are compared
GAIN = 0.5  # nats for a unit of the mean query along a caption: the smaller, the larger what captions say is written


@dataclass(frozen=True)
class Weights:
    """The weight of each objective; one of weight 0 is not computed."""

    reconstruction: float = 1.0
    decorrelation: float = 0.1
    contrastive: float = 0.5
    matching: float = 0.0
    generation: float = 0.0

    @property
    def captions(self) -> bool:
        """Whether an objective needs captions."""
        return any((self.contrastive, self.matching, self.generation))


def grid_targets(tokens: Tensor, num_prefix: int, num_queries: int) -> Tensor:
    """Mean patch of each query's cell: tokens (b, t, d) -> (b, q, d)."""
    rows, columns = grid_of(tokens.shape[1] - num_prefix)
    patches = tokens[:, num_prefix:].unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
    return F.adaptive_avg_pool2d(patches, grid_of_queries(num_queries)).flatten(2).transpose(1, 2)


class Pretraining(nn.Module):
    """A Q-Former with its text branch, and the heads that exist only while it is trained.

    Args:
        qformer: with its text branch.
        encoder_width: d of the tokens.
        num_prefix: how many tokens precede the patches.
        num_words: of the captions' vocabulary.
        max_words: of a caption, its first token included.
    """

    spread: Tensor
    directions: Tensor

    def __init__(
        self, qformer: QFormer, encoder_width: int, num_prefix: int, num_words: int, max_words: int
    ) -> None:
        super().__init__()
        self.qformer, self.num_prefix = qformer, num_prefix
        width = qformer.width
        self.words, self.places = nn.Embedding(num_words, width), nn.Embedding(max_words, width)
        self.cell, self.prefix = nn.Linear(width, encoder_width), nn.Linear(width, encoder_width)
        shared = min(SHARED_WIDTH, width)
        self.text_head = nn.Linear(width, shared)
        self.match, self.next_word = nn.Linear(width, 2), nn.Linear(width, num_words)
        self.register_buffer("spread", torch.ones(encoder_width))  # of a token's dimensions, for the targets
        self.register_buffer("directions", nn.init.orthogonal_(torch.empty(shared, width)))

    @torch.no_grad()
    def start_heads(self, tokens: Tensor) -> None:
        """Fit what reads the reconstruction by regression, since random heads would first destroy a good start.

        Args:
            tokens: (n, t, d) of a sample of images.
        """
        self.spread.copy_(tokens[:, self.num_prefix :].std((0, 1)).clamp_min(1e-3))
        queries = torch.cat([self.qformer(part) for part in tokens.split(32)])
        cells = grid_targets(tokens, self.num_prefix, queries.shape[1])
        _regress(self.cell, queries.flatten(0, 1), cells.flatten(0, 1))
        if self.num_prefix:
            _regress(self.prefix, queries.mean(1), tokens[:, : self.num_prefix].mean(1))

    def text(self, words: Tensor) -> Tensor:
        """Embeddings (b, l, width) of word ids (b, l)."""
        return self.words(words) + self.places.weight[: words.shape[1]]

    def read(self, tokens: Tensor, words: Tensor | None, causal: bool) -> tuple[Tensor, Tensor]:
        """Queries (b, q, width) and states of the words (b, l, width), which share the self-attention.

        With `causal` a word sees the queries and the words before it, and the queries see no word, so they are what
        they are without a text; otherwise all see all.
        """
        queries = self.qformer.query_tokens.expand(len(tokens), -1, -1)
        if words is None:
            return self.qformer(tokens), queries[:, :0]
        count, length = queries.shape[1], words.shape[1]
        sees = torch.ones(count + length, count + length, dtype=torch.bool, device=tokens.device)
        if causal:
            sees[:count, count:] = False
            sees[count:, count:] = torch.ones(length, length, dtype=torch.bool).tril()
        present = torch.cat([words.new_ones(len(words), count), words != PAD], dim=1).bool()
        states = self.qformer.model(
            query_embeds=torch.cat([queries, self.text(words)], dim=1),
            query_length=count,
            attention_mask=(sees & present[:, None])[:, None],  # (b, 1, q + l, q + l)
            encoder_hidden_states=tokens,
        ).last_hidden_state
        return states[:, :count], states[:, count:]

    def forward(
        self, tokens: Tensor, seen: Tensor, words: Tensor, weights: Weights
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The losses of the objectives that have a weight, and the queries (b, q, width).

        Args:
            tokens: (b, t, d), from which the targets are computed.
            seen: (b, s, d), those of them that the Q-Former sees.
            words: (b, l) ids; a row of PAD has no caption.
            weights: which objectives count.
        """
        captioned = (words != PAD).any(1)
        use_text = bool(weights.captions and captioned.sum() > 1)
        queries, states = self.read(seen, _begin(words, GENERATE) if use_text else None, causal=True)
        queries = queries.float()
        losses = {}
        if weights.reconstruction:
            losses["reconstruction"] = self.reconstruction(queries, tokens)
        if weights.decorrelation:
            losses["decorrelation"] = decorrelation(queries)
        if use_text and weights.generation:
            losses["generation"] = F.cross_entropy(
                self.next_word(states[:, :-1]).flatten(0, 1).float(),
                words.flatten(),
                ignore_index=PAD,
                label_smoothing=0.1,
            )
        if use_text and (weights.contrastive or weights.matching):
            likeness = self.likeness(queries[captioned], words[captioned])  # (c, c)
            if weights.contrastive:
                losses["contrastive"] = contrastive(likeness, words[captioned])
            if weights.matching:
                losses["matching"] = self.matching(seen[captioned], words[captioned], likeness.detach())
        return losses, queries

    def reconstruction(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Mean squared error of what is read from the queries, in units of the tokens' spread."""
        cells = grid_targets(tokens, self.num_prefix, queries.shape[1])
        loss = ((self.cell(queries) - cells) / self.spread).square().mean()
        if self.num_prefix:
            prefix = tokens[:, : self.num_prefix].mean(1)
            loss = loss + 0.5 * ((self.prefix(queries.mean(1)) - prefix) / self.spread).square().mean()
        return loss

    def likeness(self, queries: Tensor, words: Tensor) -> Tensor:
        """Product of each image's mean query, along fixed directions, with each unit caption: (images, texts)."""
        begun = _begin(words, CLASSIFY)
        present = (begun != PAD)[:, None, None].expand(-1, 1, begun.shape[1], -1)
        states = self.qformer.model(
            query_embeds=self.text(begun), query_length=0, attention_mask=present
        ).last_hidden_state[:, 0]
        image = queries.float().mean(1) @ self.directions.T  # (b, shared)
        return GAIN * image @ F.normalize(self.text_head(states).float(), dim=-1).T

    def matching(self, seen: Tensor, words: Tensor, likeness: Tensor) -> Tensor:
        """Whether a caption belongs to an image; each caption also meets another image that resembles its own."""
        same = (words[:, None] == words[None]).all(-1)
        odds = likeness.T.masked_fill(same, -torch.inf).softmax(1).nan_to_num(0)  # (texts, images)
        rows = odds.sum(1) > 0
        if not rows.any():
            return likeness.new_zeros(())
        other = torch.multinomial(odds[rows], 1).squeeze(1)
        begun = _begin(words, CLASSIFY)
        queries, _ = self.read(torch.cat([seen, seen[other]]), torch.cat([begun, begun[rows]]), causal=False)
        truth = torch.cat([begun.new_ones(len(seen)), begun.new_zeros(len(other))])
        return F.cross_entropy(self.match(queries).mean(1).float(), truth)


def _regress(head: nn.Linear, inputs: Tensor, targets: Tensor, ridge: float = 0.01) -> None:
    """Write the ridge regression of targets (n, d) on inputs (n, width) into a linear layer."""
    mean, target_mean = inputs.mean(0), targets.mean(0)
    centred = (inputs - mean).double()
    gram = centred.T @ centred
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    weight = torch.linalg.solve(gram, centred.T @ (targets - target_mean).double()).float().T  # (d, width)
    head.weight.copy_(weight)
    head.bias.copy_(target_mean - weight @ mean)


def _begin(words: Tensor, first: int) -> Tensor:
    """Word ids with the token that says what the text is read for."""
    return torch.cat([words.new_full((len(words), 1), first), words], dim=1)


def contrastive(likeness: Tensor, words: Tensor) -> Tensor:
    """InfoNCE in both directions; images with the very same caption share the credit."""
    same = (words[:, None] == words[None]).all(-1).float()
    truth = same / same.sum(1, keepdim=True)
    return 0.5 * (F.cross_entropy(likeness, truth) + F.cross_entropy(likeness.T, truth))


def decorrelation(queries: Tensor) -> Tensor:
    """VICReg's variance and covariance terms of what differs between images: (b, q, d) -> scalar."""
    differing = (queries - queries.mean(0)).flatten(0, 1)
    covariance = differing.T @ differing / max(1, len(differing) - queries.shape[1])
    width = covariance.shape[0]
    spread = (covariance.diagonal() + 1e-4).sqrt()
    off_diagonal = covariance.square().sum() - covariance.diagonal().square().sum()
    return F.relu(1 - spread).mean() + off_diagonal / width
