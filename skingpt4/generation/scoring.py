"""Closed-set scoring: the likelihood of each of some fixed answers to a question about images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from skingpt4.model.loss import log_probabilities
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import IMAGE_TOKEN, Encoded
from skingpt4.records.record import Record
from skingpt4.taxonomy import taxonomy
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS

# Asked with fresh state. They are what the two steps were trained to answer; concepts and a class are read from them.
CONCEPTS_QUESTION = "Could you describe the medical concepts of skin disease in this image for me?"
DIAGNOSIS_QUESTION = "What is wrong with my skin?"


def scored_diseases(records: Iterable[Record]) -> dict[str, str]:
    """One disease for each of the 15 classes: the closed set whose sentences are scored.

    If all cases of a class have the same disease, as the phantoms do, it is that one in their own wording; otherwise
    the one that the taxonomy gives for the class, so that no case's own name is favoured over others of its class.
    """
    names: dict[str, set[str | None]] = {}
    for record in records:
        if record.class_name:
            names.setdefault(record.class_name, set()).add(record.disease)
    chosen = {}
    for class_name in CLASSES:
        diseases = names.get(class_name, set())
        only = next(iter(diseases)) if len(diseases) == 1 else None
        chosen[class_name] = only or taxonomy.class_disease(class_name)
    return chosen


def class_sentences(form: str, diseases: dict[str, str]) -> list[str]:
    """The published sentence with each class's disease, in the order of `diseases`."""
    return [form.format(disease=disease) for disease in diseases.values()]


def concept_sentences(form: str) -> list[str]:
    """The concepts' sentence with each of the 48 concepts, in SKINCON's order."""
    return [form.format(concepts=concept) for concept in CONCEPTS]


def split_candidates(tokenizer: Any, answers: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """(the ids that all answers begin with, the remaining ids of each).

    The complete answers are tokenised and split by ids, so that no token boundary is invented. At least one id of
    every answer remains.
    """
    rows = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
    shared = _num_shared(rows)
    return rows[0][:shared], [row[shared:] for row in rows]


def _num_shared(rows: Sequence[Sequence[int]]) -> int:
    """How many ids all rows begin with; at least one of each row is left over."""
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
    trees, first = [], 0
    for prompt in prompts:
        start = [*prompt.input_ids, *shared]
        count = start.count(IMAGE_TOKEN) // (1 if queries is None else queries.shape[1])
        own_queries = None if queries is None else queries[first : first + count]
        trees.append(Tree([[*start, *tail] for tail in tails], [len(start)] * len(tails), own_queries))
        first += count
    return torch.stack(_read(model, trees, max_tokens))


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
    (scores,) = _read(model, [Tree(rows, starts, queries)])
    return list(scores.split([len(answers) for answers in sets]))


class Tree:
    """Texts with common beginnings, merged into one row that contains each beginning once.

    The mask lets each token see only its own text, and its position is that in its text. So the row's outputs are
    those of the texts read one by one, without padding or copies of a cache (tree attention, as in SpecInfer,
    arXiv 2305.09781).

    Args:
        texts: token ids, IMAGE_TOKEN where an image's vectors stand.
        starts: of each text, its first token whose probability counts (not 0).
        queries: (images, q, d) shown in each text; None without images.
    """

    def __init__(self, texts: Sequence[Sequence[int]], starts: Sequence[int], queries: Tensor | None) -> None:
        self.starts, self._queries = starts, queries
        self.ids: list[int] = []
        self.parents: list[int] = []  # of each token the one before it, -1 at the root
        self.depths: list[int] = []
        self.paths: list[list[int]] = []  # of each text its tokens in the row
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
        """(n, n) bool: a token sees itself and the tokens before it in its text."""
        seen = torch.eye(len(self.ids), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen

    def sums(self, log_probs: Tensor) -> Tensor:
        """(texts,) sums of the log-probabilities (tokens in `counted`,)."""
        place = {node: number for number, node in enumerate(self.counted)}
        each = [[place[n] for n in path[s:]] for path, s in zip(self.paths, self.starts, strict=True)]
        return torch.stack([log_probs[numbers].sum() for numbers in each])

    def texts(self) -> list[Tree]:
        """Each text as its own tree."""
        rows = [[self.ids[n] for n in path] for path in self.paths]
        return [Tree([row], [start], self._queries) for row, start in zip(rows, self.starts, strict=True)]


def _read(model: SkinGPT4, trees: Sequence[Tree], max_tokens: int = 2048) -> list[Tensor]:
    """The sums of each tree's texts, fp32 on the CPU."""
    window = getattr(model.language_model.config.get_text_config(decoder=True), "sliding_window", None)
    deepest = max(max(tree.depths) for tree in trees)
    # Without a mask that separates branches (ALiBi, flash attention), or with a window that looks back through other
    # branches, each text is a row of its own; no token sees the padding on its right.
    masked = model.language_model.takes_mask and not (window and deepest >= window)
    rows = trees if masked else [text for tree in trees for text in tree.texts()]
    sums = [
        row.sums(log_probs)
        for batch in _batches(rows, max_tokens)
        for row, log_probs in zip(batch, _pass(model, batch, masked), strict=True)
    ]
    return list(torch.cat(sums).split([len(tree.paths) for tree in trees]))


def _batches(trees: Sequence[Tree], max_tokens: int) -> Iterator[Sequence[Tree]]:
    size = max(1, max_tokens // max(len(tree.ids) for tree in trees))
    for first in range(0, len(trees), size):
        yield trees[first : first + size]


def _pass(model: SkinGPT4, trees: Sequence[Tree], masked: bool) -> list[Tensor]:
    """Log-probabilities of each tree's counted tokens, from one pass over rows that are padded on the right."""
    lm, device = model.language_model, model.language_model.input_device
    length = max(len(tree.ids) for tree in trees)
    ids = torch.tensor([[*tree.ids, *[0] * (length - len(tree.ids))] for tree in trees])
    vectors = [tree.vectors for tree in trees if tree.vectors is not None]
    embeds = model.embed(ids, torch.cat(vectors)[None] if vectors else None)
    inputs: dict[str, Any] = {}
    if masked:
        seen = torch.eye(length, dtype=torch.bool).repeat(len(trees), 1, 1)
        for row, tree in zip(seen, trees, strict=True):
            row[: len(tree.ids), : len(tree.ids)] = tree.sees()
        mask = torch.zeros(seen.shape, dtype=embeds.dtype).masked_fill(~seen, torch.finfo(embeds.dtype).min)
        depths = torch.tensor([[*tree.depths, *[0] * (length - len(tree.ids))] for tree in trees])
        inputs = {"attention_mask": mask[:, None].to(device), "position_ids": depths.to(device)}
    # A token's probability is given by the output at the token before it.
    counted = [(row, tree.parents[n], tree.ids[n]) for row, tree in enumerate(trees) for n in tree.counted]
    rows, columns, tokens = torch.tensor(counted).T
    log_probs = log_probabilities(lm, embeds, rows, columns, tokens, **inputs).cpu()
    return list(log_probs.split([len(tree.counted) for tree in trees]))
