"""Closed-set scoring: how likely the model finds each of some fixed answers to a question about a picture."""

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
    max_tokens: int = 2048,
) -> Tensor:
    """Log-probabilities (prompts, answers), fp32, summed over each answer's tokens after their shared beginning.

    Each prompt and picture is read once, and so is what several answers begin with: see `Tree`.

    Args:
        model: the network.
        prompts: rendered conversations whose last answer is open.
        queries: (pictures, q, d) of all prompts in order; None without pictures.
        answers: the closed set; the softmax over it is a distribution over the answers.
        max_tokens: read in one pass, which bounds the memory; at least one prompt with all answers is.
    """
    shared, tails = split_candidates(model.tokenizer, answers)
    trees, first = [], 0
    for prompt in prompts:
        start = [*prompt.input_ids, *shared]
        count = start.count(IMAGE_TOKEN) // (1 if queries is None else queries.shape[1])
        shown = None if queries is None else queries[first : first + count]
        trees.append(Tree([[*start, *tail] for tail in tails], [len(start)] * len(tails), shown))
        first += count
    return torch.stack(_read(model, trees, max_tokens))


@torch.no_grad()
def score_sets(
    model: SkinGPT4,
    prompts: Sequence[Encoded],
    queries: Tensor | None,
    sets: Sequence[Sequence[str]],
) -> list[Tensor]:
    """Several closed sets about the same pictures: for each its log-probabilities (answers,), fp32.

    As `score_answers` of each prompt with its own set, in one pass: what prompts begin with (the pictures, as a rule)
    is read once for all.

    Args:
        model: the network.
        prompts: one for each set, with an open answer, over the same pictures.
        queries: (pictures, q, d); None without pictures.
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
    """Texts that begin alike, as one row: what several begin with stands there once.

    Each token sees its own text alone, through the mask, at its own place in it. So the row's outputs are those of
    the texts read one by one, with neither padding nor copies of a cache (tree attention, as in SpecInfer,
    arXiv 2305.09781).
    """

    def __init__(self, texts: Sequence[Sequence[int]], starts: Sequence[int], queries: Tensor | None) -> None:
        """Merge.

        Args:
            texts: token ids, IMAGE_TOKEN where a picture's vectors stand.
            starts: of each text, its first token whose probability counts (not 0).
            queries: (pictures, q, d) shown in each text; None without pictures.
        """
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
        """(vectors, d) at the places of pictures, in the row's order."""
        if self._queries is None:
            return None
        order: dict[int, int] = {}
        for path in self.paths:
            order |= {n: k for k, n in enumerate(n for n in path if self.ids[n] == IMAGE_TOKEN)}
        return self._queries.flatten(0, 1)[[order[n] for n in sorted(order)]]

    def sees(self) -> Tensor:
        """(n, n) bool: a token sees itself and what stands before it in its text."""
        seen = torch.eye(len(self.ids), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen

    def sums(self, found: Tensor) -> Tensor:
        """(texts,) sums of the log-probabilities (tokens in `counted`,)."""
        place = {node: number for number, node in enumerate(self.counted)}
        each = [[place[n] for n in path[s:]] for path, s in zip(self.paths, self.starts, strict=True)]
        return torch.stack([found[numbers].sum() for numbers in each])

    def texts(self) -> list[Tree]:
        """Each text as a tree of its own."""
        rows = [[self.ids[n] for n in path] for path in self.paths]
        return [Tree([row], [start], self._queries) for row, start in zip(rows, self.starts, strict=True)]


def _read(model: SkinGPT4, trees: Sequence[Tree], max_tokens: int = 2048) -> list[Tensor]:
    """The sums of each tree's texts, fp32 on the CPU."""
    window = getattr(model.language_model.config.get_text_config(decoder=True), "sliding_window", None)
    deepest = max(max(tree.depths) for tree in trees)
    if model.language_model.takes_mask and not (window and deepest >= window):
        parts = _batches(trees, max_tokens)
        return [t.sums(row) for part in parts for t, row in zip(part, _pass(model, part, True), strict=True)]
    # The family keeps branches apart by no mask (ALiBi, flash attention) or looks back through a window: each text
    # is a row, and what is padded on the right is seen by nobody.
    alone = [text for tree in trees for text in tree.texts()]
    parts = _batches(alone, max_tokens)
    sums = [t.sums(row) for part in parts for t, row in zip(part, _pass(model, part, False), strict=True)]
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
    given: dict[str, Any] = {}
    if masked:
        seen = torch.eye(length, dtype=torch.bool).repeat(len(trees), 1, 1)
        for row, tree in zip(seen, trees, strict=True):
            row[: len(tree.ids), : len(tree.ids)] = tree.sees()
        mask = torch.zeros(seen.shape, dtype=embeds.dtype).masked_fill(~seen, torch.finfo(embeds.dtype).min)
        depths = torch.tensor([[*tree.depths, *[0] * (length - len(tree.ids))] for tree in trees])
        given = {"attention_mask": mask[:, None].to(device), "position_ids": depths.to(device)}
    wanted = [(row, tree.parents[n], tree.ids[n]) for row, tree in enumerate(trees) for n in tree.counted]
    rows, columns, tokens = torch.tensor(wanted).T
    found = log_probabilities(lm, embeds, rows, columns, tokens, **given).cpu()
    return list(found.split([len(tree.counted) for tree in trees]))
