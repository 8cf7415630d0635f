"""Closed-set scoring: how likely the model finds each of some fixed answers to a question about a picture."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from skingpt4 import taxonomy
from skingpt4.language import input_device
from skingpt4.model import SkinGPT4, pad_left
from skingpt4.prompts import IMAGE_TOKEN, Encoded
from skingpt4.records import Record
from skingpt4.taxonomy import CLASSES, CONCEPTS

# Asked with fresh state: what the two steps were trained to answer, from which concepts and a class are read.
CONCEPTS_QUESTION = "Could you describe the medical concepts of skin disease in this image for me?"
DIAGNOSIS_QUESTION = "What is wrong with my skin?"


def scored_diseases(records: Iterable[Record]) -> dict[str, str]:
    """One disease for each of the 15 classes: the closed set whose sentences are scored.

    Where all cases of a class carry one and the same disease it is that one, in their own wording (the phantoms
    do); else the one that the taxonomy names for the class. So no case's own name is favoured over others of
    its class.
    """
    names: dict[str, set[str | None]] = {}
    for record in records:
        if record.class_name:
            names.setdefault(record.class_name, set()).add(record.disease)
    chosen = {}
    for class_name in CLASSES:
        carried = names.get(class_name, set())
        only = next(iter(carried)) if len(carried) == 1 else None
        chosen[class_name] = only or taxonomy.class_disease(class_name)
    return chosen


def class_sentences(form: str, diseases: dict[str, str]) -> list[str]:
    """The published sentence with each class's disease, in the order of `diseases`."""
    return [form.format(disease=disease) for disease in diseases.values()]


def concept_sentences(form: str) -> list[str]:
    """The concepts' sentence with each of the 48 alone, in SKINCON's order."""
    return [form.format(concepts=concept) for concept in CONCEPTS]


def split_candidates(tokenizer: Any, answers: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """(the ids that all answers begin with, what is left of each).

    The answers are tokenised whole and split by ids, so that no token boundary is invented. At least one id
    of every answer stays in its own part.
    """
    rows = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
    shared = _num_shared(rows)
    return rows[0][:shared], [row[shared:] for row in rows]


def _num_shared(rows: Sequence[Sequence[int]]) -> int:
    """How many ids all rows begin with, at least one of each left over."""
    shared = 0
    while all(len(row) > shared + 1 for row in rows) and len({row[shared] for row in rows}) == 1:
        shared += 1
    return shared


@torch.no_grad()
def score_answers(
    model: SkinGPT4,
    prompts: Sequence[Encoded],
    queries: Tensor | None,
    answers: Sequence[str],
    max_rows: int = 240,
) -> Tensor:
    """Log-probabilities (prompts, answers), fp32, summed over each answer's tokens after their shared beginning.

    The prompt and picture are read once; their key-value cache serves all answers, in passes of at most `max_rows`
    rows, which bounds the memory.

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


@torch.no_grad()
def score_sets(
    model: SkinGPT4,
    prompts: Sequence[Encoded],
    queries: Tensor | None,
    sets: Sequence[Sequence[str]],
) -> list[Tensor]:
    """Several closed sets about the same pictures: for each its log-probabilities (answers,), fp32.

    As `score_answers` of each prompt with its own set, but what all prompts begin with (the pictures, as a rule) is
    read once: its key-value cache is copied for each prompt, and serves all answers of the set in a batch.

    Args:
        model: the network.
        prompts: one for each set, with an open answer, over the same pictures.
        queries: (pictures, q, d); None without pictures.
        sets: the answers that are scored after each prompt.
    """
    split = [split_candidates(model.tokenizer, answers) for answers in sets]
    rows = [[*p.input_ids, *shared] for p, (shared, _) in zip(prompts, split, strict=True)]
    length = _num_shared(rows)  # each keeps one: its output tells the first token of its answers
    if any(IMAGE_TOKEN in row[length:] for row in rows):  # a template with the picture after the question
        return [score_answers(model, [p], queries, a)[0] for p, a in zip(prompts, sets, strict=True)]
    device = input_device(model.language_model)
    start = torch.tensor([rows[0][:length]], device=device)
    before = model.language_model(
        inputs_embeds=model.embed(start, queries), attention_mask=torch.ones_like(start), use_cache=True,
        position_ids=torch.arange(length, device=device)[None], logits_to_keep=1,
    ).past_key_values if length else None  # fmt: skip
    scores = []
    for row, (_, tails) in zip(rows, split, strict=True):
        ids = torch.tensor([row[length:]], device=device)
        positions = torch.arange(length, len(row), device=device)[None]
        mask = torch.ones(1, len(row), dtype=torch.long, device=device)
        read = model.language_model(
            inputs_embeds=model.embed(ids, None), attention_mask=mask, position_ids=positions,
            past_key_values=copy.deepcopy(before), use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        scores.append(_after(model, read, mask, positions, tails)[0])
    return scores


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
    return _after(model, read, attention_mask, positions, tails)


def _after(
    model: SkinGPT4, read: Any, attention_mask: Tensor, positions: Tensor, tails: Sequence[Sequence[int]]
) -> Tensor:
    """Log-probabilities (b, c) of the tails after what was read, over its cache.

    Tails of about one length go through the model together (up to 4 ids, up to 8, ...): little is padding, and the
    weights are read seldom.
    """
    first = read.logits[:, -1].float().log_softmax(-1)  # (b, vocabulary)
    scores = first[:, [tail[0] for tail in tails]]  # (b, c)
    groups: dict[int, list[int]] = {}
    for number, tail in enumerate(tails):
        if len(tail) > 1:  # else nothing follows the first id
            groups.setdefault(max(2, (len(tail) - 1).bit_length()), []).append(number)
    for left, members in zip(reversed(range(len(groups))), groups.values(), strict=True):
        cache = copy.deepcopy(read.past_key_values) if left else read.past_key_values
        chosen = [tails[number] for number in members]
        scores[:, members] -= _tail_losses(model, cache, attention_mask, positions, chosen)
    return scores


def _tail_losses(
    model: SkinGPT4, cache: Any, attention_mask: Tensor, positions: Tensor, tails: Sequence[Sequence[int]]
) -> Tensor:
    """Negative log-probabilities (b, c) of the tails without their first ids; the cache is used up."""
    device, length = attention_mask.device, max(map(len, tails))
    ids = torch.tensor([[*tail, *[0] * (length - len(tail))] for tail in tails], device=device)  # (c, l)
    real = torch.tensor([[1] * len(tail) + [0] * (length - len(tail)) for tail in tails], device=device)
    b, c = len(attention_mask), len(tails)
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
    return (losses.view(b, c, -1) * real[None, :, 1:]).sum(-1)
