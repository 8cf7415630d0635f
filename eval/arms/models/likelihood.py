"""The likelihood of given answers under a vision-language model of transformers.

The log-probabilities of an answer's tokens are summed, but for the tokens with which all answers begin, as
`skingpt4.generation.scoring` does for our own model.

Each prompt is read once where its keys and values can be reused for all answers, which is the way in which the model
decodes; otherwise it is read with each answer. Which of the two is tried on the model itself, see `choose`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eval.arms.models.chat_format import num_shared
from eval.arms.respondent import RespondentGone

CACHED, COMPLETE = "prompt read once", "prompt read with each answer"
# Of the log-probability of one token, between two ways of reading. Other positions or a lost state change it by more.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}
_REUSABLE = ("DynamicLayer", "DynamicSlidingWindowLayer")  # keys and values; recurrent states are not


class Likelihood:
    """Scores answers with one model.

    Args:
        model: takes input_ids and what its processor makes of images.
        batch_size: answers that are read together.
    """

    def __init__(self, model: Any, batch_size: int) -> None:
        self.model, self.batch_size = model, batch_size
        self.way: str | None = None
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        prefix = model.config.model_type == "paligemma"
        self._answer_type = (
            1 if prefix else 0
        )  # token_type_ids: PaliGemma reads what has 0 in both directions

    @torch.no_grad()
    def sums(self, inputs: dict[str, Tensor], dropped: int, answers: Sequence[Sequence[int]]) -> Tensor:
        """(answers,) fp32 on the CPU: summed log-probabilities after the shared beginning of all answers.

        Args:
            inputs: of the prompt alone, on the model's device.
            dropped: of the prompt's last ids, which the answers replace.
            answers: the ids that follow the remaining ones.
        """
        if self.way is None:
            self.choose(inputs, dropped, answers)
        shared = min(num_shared(answers), min(map(len, answers)) - 1)
        return torch.stack(
            [row[shared:].sum() for row in self._tokens(_cut(inputs, dropped), answers, self.way)]
        )

    def choose(self, inputs: dict[str, Tensor], dropped: int, answers: Sequence[Sequence[int]]) -> None:
        """Try both ways of reading on the first and last answer.

        Raises:
            RespondentGone: what the model reads of the prompt depends on the answer behind it.
        """
        tried = [answers[0], answers[-1]]
        prompt = _cut(inputs, dropped)
        # int8 rounds what several rows have in common, so a row's numbers depend a little on the others.
        coarse = getattr(self.model, "is_loaded_in_8bit", False)
        limit = TOLERANCE[torch.bfloat16 if coarse else self.model.dtype]
        complete = self._tokens(prompt, tried, COMPLETE)
        # The first token's probability must not depend on the tokens after it.
        first = [self._tokens(prompt, [answer[:1]], COMPLETE)[0] for answer in tried]
        if max(abs(float(a[0] - b[0])) for a, b in zip(complete, first, strict=True)) > limit:
            raise RespondentGone(
                f"{self.model.config.model_type} models read a prompt in the light of the answer behind it, so the "
                "likelihood of an answer is not defined; add --no-scores to ask for texts alone"
            )
        try:
            cached = self._tokens(prompt, tried, CACHED)
        except Exception:  # a cache of another kind, or a forward that lacks what it takes from `generate`
            cached = None
        same = cached is not None and all(
            float((a - b).abs().max()) <= limit for a, b in zip(cached, complete, strict=True)
        )
        self.way = CACHED if same else COMPLETE

    @torch.no_grad()
    def _tokens(
        self, prompt: dict[str, Tensor], answers: Sequence[Sequence[int]], way: str | None
    ) -> list[Tensor]:
        """Of each answer the log-probability of each of its tokens."""
        read = _Cached(self.model, prompt).read if way == CACHED else self._complete
        rows: list[Tensor] = []
        for start in range(0, len(answers), self.batch_size):
            batch = answers[start : start + self.batch_size]
            length = max(map(len, batch))
            ids = torch.tensor(
                [[*row, *[0] * (length - len(row))] for row in batch], device=self.model.device
            )
            log_probs = read(prompt, ids).cpu()
            rows += [row[: len(answer)] for row, answer in zip(log_probs, batch, strict=True)]
        return rows

    def _complete(self, prompt: dict[str, Tensor], ids: Tensor) -> Tensor:
        """(n, t) log-probabilities of answers, each read with the prompt; no token sees the padding on its right."""
        count, length = ids.shape
        inputs: dict[str, Any] = {}
        for key, value in prompt.items():
            repeated = value.repeat(count, *[1] * (value.dim() - 1))
            if value.shape == prompt["input_ids"].shape:
                filled = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}.get(key)
                if filled is None:
                    filled = torch.full_like(ids, self._answer_type if key == "token_type_ids" else 0)
                repeated = torch.cat([repeated, filled.to(repeated.dtype)], dim=1)
            inputs[key] = repeated
        if self._keeps:
            inputs["logits_to_keep"] = length + 1
        logits = self.model(**inputs, use_cache=False).logits[:, -length - 1 : -1]
        return _taken(logits, ids)


class _Cached:
    """A prompt's keys and values, and what they say of the first token."""

    def __init__(self, model: Any, prompt: dict[str, Tensor]) -> None:
        self.model = model
        output = model(**prompt, use_cache=True)
        self.cache, self.first = output.past_key_values, output.logits[:, -1:]
        kinds = {type(layer).__name__ for layer in self.cache.layers}
        if not kinds <= set(_REUSABLE):
            raise TypeError(f"a cache of {', '.join(sorted(kinds))} cannot be continued by several tokens")

    def read(self, prompt: dict[str, Tensor], ids: Tensor) -> Tensor:
        """(n, t) log-probabilities of answers."""
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(len(ids))
        first = self.first.expand(len(ids), -1, -1)
        if ids.shape[1] == 1:
            return _taken(first, ids)
        logits = self.model(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True).logits
        return _taken(torch.cat([first, logits], dim=1), ids)


def _taken(logits: Tensor, ids: Tensor) -> Tensor:
    """The log-probabilities (n, t) of `ids` under logits (n, t, vocabulary)."""
    return logits.float().log_softmax(dim=-1).gather(2, ids[..., None])[..., 0]


def _cut(inputs: dict[str, Tensor], dropped: int) -> dict[str, Tensor]:
    """Inputs without the last ids."""
    if not dropped:
        return inputs
    shape = inputs["input_ids"].shape
    return {key: value[:, :-dropped] if value.shape == shape else value for key, value in inputs.items()}
