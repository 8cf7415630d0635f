"""Closed-set scoring: the likelihood of each of some fixed answers to a question about images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from skingpt4.generation.tree import Tree, num_shared, read_trees, split_texts
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import IMAGE_TOKEN, Encoded


def split_candidates(tokenizer: Any, answers: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """(the ids that all answers begin with, the remaining ids of each).

    The complete answers are tokenised and split by ids, so that no token boundary is invented. At least one id of
    every answer remains.
    """
    rows = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
    shared = num_shared(rows)
    return rows[0][:shared], [row[shared:] for row in rows]


@torch.no_grad()
def score_answers(
    model: SkinGPT4,
    prompts: Sequence[Encoded],
    queries: Tensor | None,
    answers: Sequence[str],
    max_tokens: int = 2048,
) -> Tensor:
    """Log-probabilities (prompts, answers), fp32, summed over each answer's tokens after their shared beginning.

    Each prompt and image is read once, and so is the common beginning of several answers: see `Tree`.

    Args:
        model: the network.
        prompts: rendered conversations whose last answer is open.
        queries: (images, q, d) of all prompts in order; None without images.
        answers: the closed set; the softmax over it is a distribution over the answers.
        max_tokens: read in one pass, which bounds the memory; one prompt with all answers may exceed it.
    """
    shared, tails = split_candidates(model.tokenizer, answers)
    trees = []
    for start, shown in _starts(prompts, queries, shared):
        trees.append(Tree([[*start, *tail] for tail in tails], [len(start)] * len(tails), shown))
    return torch.stack(read_trees(model, trees, max_tokens))


def _starts(
    prompts: Sequence[Encoded], queries: Tensor | None, shared: Sequence[int]
) -> Iterator[tuple[list[int], Tensor | None]]:
    """Of each prompt the ids before the answers' own, and the queries of its images."""
    first = 0
    for prompt in prompts:
        count = prompt.input_ids.count(IMAGE_TOKEN) // (1 if queries is None else queries.shape[1])
        yield [*prompt.input_ids, *shared], None if queries is None else queries[first : first + count]
        first += count


@torch.no_grad()
def score_tree(
    model: SkinGPT4,
    prompts: Sequence[Encoded],
    queries: Tensor | None,
    sentences: Sequence[str],
    max_tokens: int = 2048,
) -> Tensor:
    """Log-probabilities (prompts, sentences) as of `score_answers`, fast for hundreds of sentences.

    What no probability depends on, the last token of a sentence, is not read, and the tree is read as several rows
    that are together cheaper than one. The sums therefore differ from those of `score_answers` by rounding.

    Args:
        model: the network.
        prompts: rendered conversations whose last answer is open.
        queries: (images, q, d) of all prompts in order; None without images.
        sentences: the closed set; the softmax over it is a distribution over the sentences.
        max_tokens: read in one pass, which bounds the memory; one row may exceed it.
    """
    shared, tails = split_candidates(model.tokenizer, sentences)
    width = model.language_model.get_input_embeddings().weight.shape[1]
    trees, places = list[Tree](), list[tuple[int, list[int]]]()
    for number, (start, shown) in enumerate(_starts(prompts, queries, shared)):
        # A row of p + t tokens costs about 24 d**2 (p + t) + 8 d (p + t)**2 operations a layer (attention at half the
        # speed of the products with weights). All tails together are cheapest in rows of this t.
        for group in split_texts(tails, math.isqrt(len(start) ** 2 + 3 * width * len(start))):
            texts = [[*start, *tails[place]] for place in group]
            trees.append(Tree(texts, [len(start)] * len(group), shown, with_ends=False))
            places.append((number, group))
    result = torch.empty(len(prompts), len(sentences))
    for (number, group), sums in zip(places, read_trees(model, trees, max_tokens), strict=True):
        result[number, group] = sums
    return result


@torch.no_grad()
def score_sets(
    model: SkinGPT4, prompts: Sequence[Encoded], queries: Tensor | None, sets: Sequence[Sequence[str]]
) -> list[Tensor]:
    """Several closed sets about the same images: for each its log-probabilities (answers,), fp32.

    The result is that of `score_answers` for each prompt with its own set, in one pass: the common beginning of the
    prompts (usually the images) is read only once.

    Args:
        model: the network.
        prompts: one for each set, with an open answer, over the same images.
        queries: (images, q, d); None without images.
        sets: the answers that are scored after each prompt.
    """
    rows, starts = [], []
    for prompt, answers in zip(prompts, sets, strict=True):
        shared, tails = split_candidates(model.tokenizer, answers)
        rows += [[*prompt.input_ids, *shared, *tail] for tail in tails]
        starts += [len(prompt.input_ids) + len(shared)] * len(tails)
    (scores,) = read_trees(model, [Tree(rows, starts, queries)])
    return list(scores.split([len(answers) for answers in sets]))
