"""Closed-set scoring: how likely the model finds each of some fixed answers to a question about a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from skingpt4.language import input_device
from skingpt4.model import SkinGPT4, pad_left
from skingpt4.prompts import Encoded


def split_candidates(tokenizer: Any, answers: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """(the ids that all answers begin with, what is left of each).

    The answers are tokenised whole and split by ids, so that no token boundary is invented. At least one id
    of every answer stays in its own part.
    """
    rows = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
    shared = 0
    while all(len(row) > shared + 1 for row in rows) and len({row[shared] for row in rows}) == 1:
        shared += 1
    return rows[0][:shared], [row[shared:] for row in rows]


@torch.no_grad()
def score_answers(
    model: SkinGPT4,
    prompts: Sequence[Encoded],
    queries: Tensor | None,
    answers: Sequence[str],
    max_rows: int = 240,
) -> Tensor:
    """Log-probabilities (prompts, answers), fp32, summed over each answer's tokens after their shared beginning.

    The prompt and picture are read once; their key-value cache serves all answers in one pass of at most
    `max_rows` rows, which bounds the memory.

    Args:
        model: the network.
        prompts: rendered conversations whose last answer is open.
        queries: (prompts, q, d), one picture for each prompt; None without pictures.
        answers: the closed set; the softmax over it is a distribution over the answers.
        max_rows: how many (prompt, answer) pairs are in memory at once.
    """
    size = max(1, max_rows // len(answers))
    parts = []
    for i in range(0, len(prompts), size):
        shown = None if queries is None else queries[i : i + size]
        parts.append(_score(model, prompts[i : i + size], shown, answers))
    return torch.cat(parts)


def _score(
    model: SkinGPT4, prompts: Sequence[Encoded], queries: Tensor | None, answers: Sequence[str]
) -> Tensor:
    shared, tails = split_candidates(model.tokenizer, answers)
    input_ids, attention_mask = pad_left([[*p.input_ids, *shared] for p in prompts])
    device = input_device(model.language_model)
    input_ids, attention_mask = input_ids.to(device), attention_mask.to(device)
    positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
    read = model.language_model(
        inputs_embeds=model.embed(input_ids, queries),
        attention_mask=attention_mask,
        position_ids=positions,
        use_cache=True,
        logits_to_keep=1,
    )
    first = read.logits[:, -1].float().log_softmax(-1)  # (b, vocabulary)
    length = max(map(len, tails))
    ids = torch.tensor([tail + [0] * (length - len(tail)) for tail in tails], device=device)  # (c, l)
    real = torch.tensor([[1] * len(tail) + [0] * (length - len(tail)) for tail in tails], device=device)
    scores = first[:, ids[:, 0]]  # (b, c)
    if length == 1:
        return scores
    b, c = len(prompts), len(answers)
    cache = read.past_key_values
    cache.batch_repeat_interleave(c)
    logits = model.language_model(
        input_ids=ids.repeat(b, 1)[:, :-1],
        attention_mask=torch.cat([attention_mask.repeat_interleave(c, 0), real.repeat(b, 1)[:, :-1]], 1),
        position_ids=positions.repeat_interleave(c, 0)[:, -1:] + 1 + torch.arange(length - 1, device=device),
        past_key_values=cache,
    ).logits
    losses = F.cross_entropy(
        logits.float().flatten(0, 1), ids.repeat(b, 1)[:, 1:].flatten(), reduction="none"
    )
    return scores - (losses.view(b, c, -1) * real[None, :, 1:]).sum(-1)
