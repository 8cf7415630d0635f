"""Cross-entropy behind a frozen head, some rows at a time: the logits of all rows never stand in memory together.

The head is frozen, so the only gradient is the one with respect to its input, and that is known as soon as the
logits are: (softmax - one-hot) W. It is computed in the forward, chunk by chunk, in place of the logits; nothing
is computed twice. The sums are those of `F.cross_entropy` in fp32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def head_loss(head: nn.Module, hidden: Tensor, targets: Tensor, chunk_bytes: int) -> Tensor:
    """Summed cross-entropy, fp32 scalar, of a language model's head at some positions.

    Args:
        head: maps hidden states to logits.
        hidden: (n, d) hidden states.
        targets: (n,) int64 vocabulary ids.
        chunk_bytes: of fp32 logits in memory at once, at least one row; 0 takes all rows at once, through autograd.
            So does a head that is itself trained (LoRA on it).
    """
    trained = any(p.requires_grad for p in head.parameters())
    if not chunk_bytes or trained or not len(targets):
        return F.cross_entropy(head(hidden).float(), targets, reduction="sum")
    size = head.weight.shape[0] if _is_plain(head) else head(hidden[:1].detach()).shape[-1]  # type: ignore[index]
    rows = max(1, chunk_bytes // (4 * size))
    return _HeadLoss.apply(hidden, head, targets, rows)


class _HeadLoss(torch.autograd.Function):
    """The sum over chunks of rows; the gradient is ready when the forward is."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: nn.Module, targets: Tensor, rows: int) -> Tensor:
        of_chunk = _by_hand if _is_plain(head) else _by_autograd
        wanted = ctx.needs_input_grad[0]
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradients = []
        for part, chosen in zip(hidden.split(rows), targets.split(rows), strict=True):
            value, gradient = of_chunk(head, part, chosen, wanted)
            loss += value
            if gradient is not None:
                gradients.append(gradient)
        if wanted:
            ctx.save_for_backward(torch.cat(gradients))
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient), None, None, None


def _is_plain(head: nn.Module) -> bool:
    """A `Linear` whose forward is its own: not guarded (`float16`), quantised or moved about by accelerate."""
    own = {"forward", "_old_forward"} & vars(head).keys()
    return type(head) is nn.Linear and not own


def _by_hand(head: Any, hidden: Tensor, targets: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """(loss, gradient of `hidden`) of one chunk; the softmax is written over the logits."""
    chosen = targets[:, None]
    logits = F.linear(hidden, head.weight, head.bias).float()
    norm = logits.logsumexp(-1, keepdim=True)
    loss = (norm - logits.gather(1, chosen)).sum()
    if not wanted:
        return loss, None
    errors = logits.sub_(norm).exp_()
    errors.scatter_add_(1, chosen, errors.new_full(chosen.shape, -1.0))
    return loss, errors.to(head.weight.dtype) @ head.weight


def _by_autograd(head: Any, hidden: Tensor, targets: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """The same through the head's own forward, whatever it is."""
    part = hidden.detach().requires_grad_(wanted)
    with torch.set_grad_enabled(wanted):
        loss = F.cross_entropy(head(part).float(), targets, reduction="sum")
    return loss.detach(), torch.autograd.grad(loss, part)[0] if wanted else None
