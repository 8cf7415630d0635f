"""How an answer is drawn: its settings, and the choice of each next token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from skingpt4.support.errors import UserError

# What a language model's own generation_config may ask for and `Sampler` does not do, unless it is None, 0 or False.
_OTHER_RULES = (
    "guidance_scale", "sequence_bias", "encoder_repetition_penalty", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "min_length", "min_new_tokens", "forced_bos_token_id", "forced_eos_token_id",
    "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens",
    "top_h", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "watermarking_config", "penalty_alpha",
    "renormalize_logits",
)  # fmt: skip
_WITHOUT_EFFECT_AT_1 = ("guidance_scale", "encoder_repetition_penalty", "typical_p")


class ChatError(UserError):
    """A question that cannot be answered; the message says why."""


@dataclass(frozen=True)
class Generation:
    """How an answer is drawn. Temperature 0 is greedy; beams switch sampling off; a seed makes it repeatable."""

    max_new_tokens: int = 160
    temperature: float = 0.0
    top_p: float = 0.9
    top_k: int = 50
    num_beams: int = 1
    seed: int = 0

    def options(self) -> dict[str, Any]:
        """Arguments for the language model's `generate`.

        Raises:
            ChatError: a value outside its range.
        """
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.num_beams < 1 or self.max_new_tokens < 1:
            raise ChatError(
                "temperature must be at least 0, top_p in (0, 1], beams and max_new_tokens at least 1"
            )
        options: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "num_beams": self.num_beams}
        if self.temperature == 0 or self.num_beams > 1:
            return options | {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return options | {"do_sample": True, **sampling}


class Sampler:
    """Chooses one answer's tokens as `generate` does, with a random state of its own."""

    def __init__(self, generation: Generation, rules: GenerationConfig, device: torch.device) -> None:
        """Build the rules in the order of `generate`.

        Args:
            generation: of this answer.
            rules: the language model's own; see `knows_rules`.
            device: where the logits are.
        """
        self.processors = LogitsProcessorList()
        if (rules.repetition_penalty or 1.0) != 1.0:
            self.processors.append(RepetitionPenaltyLogitsProcessor(rules.repetition_penalty))
        if rules.no_repeat_ngram_size:
            self.processors.append(NoRepeatNGramLogitsProcessor(rules.no_repeat_ngram_size))
        self.generator: torch.Generator | None = None
        if generation.temperature > 0:
            self.generator = torch.Generator(device).manual_seed(generation.seed)
            if generation.temperature != 1.0:
                self.processors.append(TemperatureLogitsWarper(generation.temperature))
            if generation.top_k:
                self.processors.append(TopKLogitsWarper(generation.top_k))
            if generation.top_p < 1.0:
                self.processors.append(TopPLogitsWarper(generation.top_p))

    @property
    def is_argmax(self) -> bool:
        """Whether the likeliest token is chosen and nothing else matters."""
        return self.generator is None and not self.processors

    def choose(self, logits: Tensor, ids: Sequence[int]) -> int:
        """The next token.

        Args:
            logits: (vocabulary,).
            ids: of the answer so far.
        """
        said: Any = torch.tensor([list(ids)], dtype=torch.long, device=logits.device)
        raw: Any = logits[None].to(torch.float32, copy=True)
        scores = self.processors(said, raw)
        if self.generator is None:
            return int(scores.argmax(-1))
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self.generator))


def knows_rules(rules: GenerationConfig) -> bool:
    """Whether `Sampler` does all that a language model's generation_config asks for."""
    asked = {name: getattr(rules, name, None) for name in _OTHER_RULES}
    return not any(
        value and not (value == 1.0 and name in _WITHOUT_EFFECT_AT_1) for name, value in asked.items()
    )
