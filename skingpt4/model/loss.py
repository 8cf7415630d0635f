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

from skingpt4.model.language import input_device
from skingpt4.model.prompts import IGNORED
from skingpt4.weights.language_model import LanguageModelError


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


def supervised_loss(
    model: Any,
    embeds: Tensor,
    labels: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None = None,
    chunk_bytes: int = 0,
    all_logits: bool = False,
) -> tuple[Tensor, int]:
    """(cross-entropy summed over the supervised tokens, fp32 scalar; their number).

    Logits are computed where they are supervised: the head of a large vocabulary is a fifth of a small model's cost,
    and most positions are image and prompt. Families that change logits after their head (a soft cap, a scale) are
    run whole.

    Args:
        model: a causal language model.
        embeds: (b, t, d) input embeddings.
        labels: (b, t), IGNORED where not supervised.
        attention_mask: (b, t), 0 at padding, or None.
        position_ids: (b, t), or None.
        chunk_bytes: of logits in memory at once, see `head_loss`.
        all_logits: compute them at every position first, as the original does.
    """
    targets = labels[:, 1:]
    positions = F.pad(targets != IGNORED, (0, 1))
    chosen = targets[targets != IGNORED]
    if has_plain_head(model) and not all_logits:
        hidden = _hidden_states(model.base_model, embeds, attention_mask, position_ids)[0]
        hidden = hidden[positions.to(hidden.device)]
        head = model.get_output_embeddings()
        return head_loss(head, hidden, chosen.to(hidden.device), chunk_bytes), len(chosen)
    logits = _hidden_states(model, embeds, attention_mask, position_ids).logits
    logits = logits[positions.to(logits.device)]
    return F.cross_entropy(logits.float(), chosen.to(logits.device), reduction="sum"), len(chosen)


def log_probabilities(
    model: Any,
    embeds: Tensor,
    rows: Tensor,
    columns: Tensor,
    tokens: Tensor,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    chunk: int = 128,
) -> Tensor:
    """(n,) fp32 log-probabilities, each of a token after what was read up to a place.

    Args:
        model: a causal language model.
        embeds: (b, t, d) input embeddings.
        rows: (n,) int64, and
        columns: (n,) int64, the places; several tokens may follow the same one, whose logits are computed once.
        tokens: (n,) int64 vocabulary ids.
        attention_mask: (b, 1, t, t) added to the attention's scores, with
        position_ids: (b, t); both None for plain rows, padded on the right.
        chunk: places whose logits are in memory at once.
    """
    out = _hidden_states(
        model.base_model if has_plain_head(model) else model, embeds, attention_mask, position_ids
    )
    states = out[0] if has_plain_head(model) else out.logits
    head = model.get_output_embeddings() if has_plain_head(model) else None
    places, which = torch.unique(rows * embeds.shape[1] + columns, return_inverse=True)
    states = states.flatten(0, 1)[places.to(states.device)]
    found = torch.empty(len(tokens))
    for number, part in enumerate(states.split(chunk)):
        logs = (part if head is None else head(part)).float().log_softmax(-1)
        mine = which // chunk == number
        found[mine] = logs[which[mine] % chunk, tokens[mine]].cpu()
    return found


def _hidden_states(
    model: Any, embeds: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None
) -> Any:
    """A model's output, several samples in a row kept apart where `position_ids` are given without a mask."""
    if position_ids is None:
        return model(inputs_embeds=embeds, attention_mask=attention_mask, use_cache=False)
    if attention_mask is not None:
        return model(
            inputs_embeds=embeds, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        )
    return _run_packed(model, embeds, position_ids, packing(model))


def _run_packed(model: Any, embeds: Tensor, position_ids: Tensor, way: str) -> Any:
    mask = None if way == "positions" else apart_mask(position_ids, embeds.dtype)
    return model(inputs_embeds=embeds, attention_mask=mask, position_ids=position_ids, use_cache=False)


def apart_mask(position_ids: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores (b, 1, t, t): 0 where a position may look, else the type's least number.

    A position sees what stands before it in its own sample; a sample begins wherever `position_ids` do not count on.
    """
    counts_on = position_ids[:, 1:] == position_ids[:, :-1] + 1
    sample = F.pad((~counts_on).long().cumsum(1), (1, 0))
    seen = (sample[:, :, None] == sample[:, None, :]).tril()
    mask = torch.zeros(seen.shape, dtype=dtype, device=position_ids.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def packing(model: Any) -> str:
    """How a model keeps the samples of one row apart, tried on it once.

    Returns:
        positions (its own code reads them off `position_ids`) or mask (an explicit one is needed, as by Falcon).

    Raises:
        LanguageModelError: neither does (ALiBi, state space models).
    """
    if not hasattr(model, "_skingpt4_packing"):
        ways = [way for way in ("positions", "mask") if _keeps_apart(model.base_model, way)]
        model._skingpt4_packing = ways[0] if ways else ""
        model.base_model._skingpt4_packing = model._skingpt4_packing
    if not model._skingpt4_packing:
        raise LanguageModelError(
            f"data.batching: samples of one row would see each other in {model.config.model_type}; "
            "choose grouped or padded"
        )
    return model._skingpt4_packing


def takes_mask(model: Any) -> bool:
    """Whether a model attends by an explicit mask (b, 1, t, t), tried on it once."""
    if not hasattr(model, "_skingpt4_takes_mask"):
        model._skingpt4_takes_mask = _keeps_apart(model.base_model, "mask")
    return model._skingpt4_takes_mask


@torch.no_grad()
def _keeps_apart(base: Any, way: str) -> bool:
    in_training = [module for module in base.modules() if module.training]
    base.eval()
    embeds = base.get_input_embeddings()(torch.arange(7, device=input_device(base))[None])
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]], device=embeds.device)
    try:
        packed = _run_packed(base, embeds, positions, way)[0]
        alone = [base(inputs_embeds=part, use_cache=False)[0] for part in embeds.split([3, 4], 1)]
    except (TypeError, ValueError, RuntimeError):  # takes no positions, or no such mask
        return False
    finally:
        for module in in_training:
            module.training = True
    return torch.allclose(packed.float(), torch.cat(alone, 1).float(), rtol=1e-2, atol=1e-2)


def has_plain_head(model: Any) -> bool:
    """Whether head(base model(x)) is the model's own output; asked of the model once, on three embeddings."""
    if not hasattr(model, "_skingpt4_plain_head"):
        in_training = [module for module in model.modules() if module.training]
        model.eval()  # dropout of LoRA would make the two differ, and draw from the random state
        with torch.no_grad():
            embeds = model.get_input_embeddings()(torch.arange(3, device=input_device(model))[None])
            whole = model(inputs_embeds=embeds, use_cache=False).logits
            parts = model.get_output_embeddings()(model.base_model(inputs_embeds=embeds, use_cache=False)[0])
        for module in in_training:
            module.training = True
        model._skingpt4_plain_head = torch.allclose(whole.float(), parts.float(), rtol=1e-3, atol=1e-3)
    return model._skingpt4_plain_head
