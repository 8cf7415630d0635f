"""Cross-entropy behind a frozen head, in chunks of rows: the logits of all rows are never in memory together.

The head is frozen, so the only gradient is the one with respect to its input, and that is known as soon as the
logits are: (softmax - one-hot) W. It is computed in the forward, chunk by chunk, in place of the logits; nothing
is computed twice. The sums are those of `F.cross_entropy` in fp32.
"""

from __future__ import annotations

from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from skingpt4.model.language import LanguageModel
from skingpt4.model.prompts import IGNORED

LOSS_CHUNK_BYTES = 32 * 2**20  # of fp32 logits in memory at once


def head_loss(
    head: nn.Module, hidden: Tensor, targets: Tensor, chunk_bytes: int, weights: Tensor | None = None
) -> Tensor:
    """Summed cross-entropy, fp32 scalar, of a language model's head at some positions.

    Args:
        head: maps hidden states to logits.
        hidden: (n, d) hidden states.
        targets: (n,) int64 vocabulary ids.
        chunk_bytes: of fp32 logits in memory at once, at least one row; 0 takes all rows at once, through autograd,
            and so does a head that is itself trained (LoRA on it).
        weights: (n,) fp32, of each position in the sum; None is 1 for all.
    """
    trained = any(p.requires_grad for p in head.parameters())
    if not chunk_bytes or trained or not len(targets):
        return _cross_entropy(head(hidden), targets, weights)
    vocabulary = head.weight.shape[0] if _is_plain(head) else head(hidden[:1].detach()).shape[-1]  # type: ignore[index]
    return _HeadLoss.apply(hidden, head, targets, max(1, chunk_bytes // (4 * vocabulary)), weights)


def _cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """Summed over the rows of logits (n, vocabulary), each with its weight."""
    if weights is None:
        return F.cross_entropy(logits.float(), targets, reduction="sum")
    return (F.cross_entropy(logits.float(), targets, reduction="none") * weights).sum()


class _HeadLoss(torch.autograd.Function):
    """The sum over chunks of rows; the gradient is ready when the forward is."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: nn.Module, targets: Tensor, num_rows: int, weights: Tensor | None
    ) -> Tensor:
        of_chunk = _by_hand if _is_plain(head) else _by_autograd
        with_gradient = ctx.needs_input_grad[0]
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradients = []
        # (rows, d), (rows,), (rows,)
        parts = zip(
            hidden.split(num_rows),
            targets.split(num_rows),
            repeat(None) if weights is None else weights.split(num_rows),
            strict=False,
        )
        for rows, ids, scale in parts:
            value, gradient = of_chunk(head, rows, ids, scale, with_gradient)
            loss += value
            if gradient is not None:
                gradients.append(gradient)
        if with_gradient:
            ctx.save_for_backward(torch.cat(gradients))  # (n, d)
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient), None, None, None, None


def _is_plain(head: nn.Module) -> bool:
    """A `Linear` with its own forward: not guarded (`precision.guard`), quantised or hooked by accelerate."""
    own = {"forward", "_old_forward"} & vars(head).keys()
    return type(head) is nn.Linear and not own


def _by_hand(
    head: Any, hidden: Tensor, targets: Tensor, weights: Tensor | None, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """(loss, gradient of `hidden`) of one chunk; the softmax is written over the logits."""
    columns = targets[:, None]  # (rows, 1)
    logits = F.linear(hidden, head.weight, head.bias).float()  # (rows, vocabulary)
    norm = logits.logsumexp(-1, keepdim=True)  # (rows, 1)
    losses = norm - logits.gather(1, columns)  # (rows, 1)
    loss = losses.sum() if weights is None else (losses * weights[:, None]).sum()
    if not with_gradient:
        return loss, None
    errors = logits.sub_(norm).exp_()  # softmax, then softmax - one-hot
    errors.scatter_add_(1, columns, errors.new_full(columns.shape, -1.0))
    if weights is not None:
        errors *= weights[:, None]
    return loss, errors.to(head.weight.dtype) @ head.weight


def _by_autograd(
    head: Any, hidden: Tensor, targets: Tensor, weights: Tensor | None, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """The same through the head's own forward, whatever it is."""
    rows = hidden.detach().requires_grad_(with_gradient)
    with torch.set_grad_enabled(with_gradient):
        loss = _cross_entropy(head(rows), targets, weights)
    return loss.detach(), torch.autograd.grad(loss, rows)[0] if with_gradient else None


def supervised_loss(
    language_model: LanguageModel,
    embeds: Tensor,
    labels: Tensor,
    attention_mask: Tensor | None,
    weights: Tensor | None = None,
) -> tuple[Tensor, int]:
    """(cross-entropy summed over the supervised tokens, fp32 scalar; their number).

    Logits are computed where they are supervised: the head of a large vocabulary is a fifth of a small model's cost,
    and most positions are image and prompt. Families that change logits behind their head (a soft cap, a scale)
    compute them everywhere.

    Args:
        language_model: the frozen language model.
        embeds: (b, t, d) input embeddings.
        labels: (b, t), IGNORED where not supervised.
        attention_mask: (b, t), 0 at padding, or None.
        weights: (b, t) of the labels in the sum; None is 1 for all.
    """
    targets = labels[:, 1:]  # what position t predicts is the label at t + 1
    supervised = F.pad(targets != IGNORED, (0, 1))  # (b, t)
    if weights is not None:
        weights = weights[:, 1:][targets != IGNORED].to(embeds.device)  # (n,)
    targets = targets[targets != IGNORED]  # (n,)
    if language_model.has_plain_head:
        hidden = language_model.hidden_states(embeds, attention_mask)
        hidden = hidden[supervised.to(hidden.device)]  # (n, d)
        head = language_model.get_output_embeddings()
        return head_loss(head, hidden, targets.to(hidden.device), LOSS_CHUNK_BYTES, weights), len(targets)
    logits = language_model.logits(embeds, attention_mask)
    logits = logits[supervised.to(logits.device)]  # (n, vocabulary)
    return _cross_entropy(logits, targets.to(logits.device), weights), len(targets)


def preference_loss(
    language_model: LanguageModel,
    embeds: Tensor,
    labels: Tensor,
    attention_mask: Tensor | None,
    reference: Tensor,
    beta: float | Tensor,
) -> tuple[Tensor, int]:
    """(Direct preference optimisation's loss summed over pairs, fp32 scalar; their number).

    Rafailov et al. 2023 (arXiv 2305.18290), equation 7: -log sigmoid(beta ((log p(w) - log p(l)) - (the same of the
    reference))), where p(w) and p(l) are the probabilities of the preferred and of the other answer.

    Args:
        language_model: the language model.
        embeds: (2 n, t, d) input embeddings, of the preferred answers and then of the others.
        labels: (2 n, t), IGNORED where not supervised.
        attention_mask: (2 n, t), 0 at padding, or None.
        reference: (n,) fp32, `answer_margins` of the reference.
        beta: of the loss.
    """
    margins = answer_margins(language_model, embeds, labels, attention_mask)
    losses = -F.logsigmoid(beta * (margins - reference.to(margins)))
    return losses.sum(), len(losses)


def answer_margins(
    language_model: LanguageModel, embeds: Tensor, labels: Tensor, attention_mask: Tensor | None
) -> Tensor:
    """(n,) fp32: log p(preferred answer) - log p(other answer) of n pairs; arguments as of `preference_loss`."""
    targets = labels[:, 1:]
    supervised = F.pad(targets != IGNORED, (0, 1))  # (2 n, t)
    rows, _ = supervised.nonzero(as_tuple=True)  # (tokens,)
    targets = targets[targets != IGNORED]  # (tokens,)
    if language_model.has_plain_head:
        states = language_model.hidden_states(embeds, attention_mask)  # (2 n, t, d)
        head: nn.Module = language_model.get_output_embeddings()
    else:
        states = language_model.logits(embeds, attention_mask)  # (2 n, t, vocabulary)
        head = nn.Identity()
    states = states[supervised.to(states.device)]  # (tokens, d or vocabulary)
    num_rows = max(1, LOSS_CHUNK_BYTES // (4 * language_model.get_input_embeddings().weight.shape[0]))

    def losses_of(part: Tensor, ids: Tensor) -> Tensor:
        return F.cross_entropy(head(part).float(), ids, reduction="none")

    parts = zip(states.split(num_rows), targets.to(states.device).split(num_rows), strict=True)
    losses = [checkpoint(losses_of, part, ids, use_reentrant=False) for part, ids in parts]
    sums = torch.zeros(len(labels), device=states.device)
    sums = sums.index_add(0, rows.to(states.device), torch.cat(losses))  # (2 n,)
    preferred, other = sums.chunk(2)
    return other - preferred


def log_probabilities(
    language_model: LanguageModel,
    embeds: Tensor,
    rows: Tensor,
    columns: Tensor,
    tokens: Tensor,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    chunk: int = 128,
) -> Tensor:
    """(n,) fp32 log-probabilities on the CPU, each of a token after what was read up to a position.

    Args:
        language_model: the frozen language model.
        embeds: (b, t, d) input embeddings.
        rows: (n,) int64, and
        columns: (n,) int64, the positions; several tokens may follow the same one, whose logits are computed once.
        tokens: (n,) int64 vocabulary ids.
        attention_mask: (b, 1, t, t) added to the attention's scores, with
        position_ids: (b, t); both None for plain rows, padded on the right.
        chunk: positions whose logits are in memory at once.
    """
    if language_model.has_plain_head:
        states = language_model.hidden_states(embeds, attention_mask, position_ids)  # (b, t, d)
        to_logits = language_model.get_output_embeddings()
    else:
        states = language_model.logits(embeds, attention_mask, position_ids)  # (b, t, vocabulary)
        to_logits = nn.Identity()
    positions, of_token = torch.unique(rows * embeds.shape[1] + columns, return_inverse=True)
    states = states.flatten(0, 1)[positions.to(states.device)]  # (positions, d or vocabulary)
    result = torch.empty(len(tokens))
    for number, part in enumerate(states.split(chunk)):
        logs = to_logits(part).float().log_softmax(-1)  # (chunk, vocabulary)
        mine = of_token // chunk == number
        result[mine] = logs[of_token[mine] % chunk, tokens[mine]].cpu()
    return result
