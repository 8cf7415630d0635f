"""How an answer is drawn: its settings, the choice of each next token, and guesses at the tokens after it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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

from skingpt4.config.schema import DataConfig
from skingpt4.support.errors import UserError

# Settings of a language model's own generation_config that `Sampler` lacks. None, 0 and False switch them off.
_UNSUPPORTED_RULES = (
    "guidance_scale", "sequence_bias", "encoder_repetition_penalty", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "min_length", "min_new_tokens", "forced_bos_token_id", "forced_eos_token_id",
    "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens",
    "top_h", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "watermarking_config", "penalty_alpha",
    "renormalize_logits",
)  # fmt: skip
MAX_BEAMS = 64
_OFF_AT_1 = ("guidance_scale", "encoder_repetition_penalty", "typical_p")


class ChatError(UserError):
    """A question that cannot be answered; the message says why."""


@dataclass(frozen=True)
class Generation:
    """How an answer is drawn. Temperature 0 is greedy; beams switch sampling off; a seed makes it repeatable."""

    max_new_tokens: int = DataConfig.max_text_tokens
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
        for name, value, right, meaning in (
            ("temperature", self.temperature, 0 <= self.temperature < math.inf, "at least 0"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("beams", self.num_beams, 1 <= self.num_beams <= MAX_BEAMS, f"from 1 to {MAX_BEAMS}"),
            ("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "at least 1"),
            ("seed", self.seed, abs(self.seed) < 2**63, "a number of at most 63 bits"),
        ):
            if not right:
                raise ChatError(f"{name} must be {meaning}, not {value}")
        options: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "num_beams": self.num_beams}
        if self.temperature == 0 or self.num_beams > 1:
            return options | {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return options | {"do_sample": True, **sampling}


class Sampler:
    """Chooses one answer's tokens as `generate` does, with its own random state.

    Args:
        generation: of this answer.
        rules: the language model's own; see `knows_rules`.
        device: where the logits are.
    """

    def __init__(self, generation: Generation, rules: GenerationConfig, device: torch.device) -> None:
        # In the order of `generate`.
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
        """Whether the token is simply the argmax of the logits."""
        return self.generator is None and not self.processors

    def choose(self, logits: Tensor, ids: Sequence[int]) -> int:
        """The next token.

        Args:
            logits: (vocabulary,).
            ids: of the answer so far.
        """
        written: Any = torch.tensor([list(ids)], dtype=torch.long, device=logits.device)
        raw: Any = logits[None].to(torch.float32, copy=True)
        scores = self.processors(written, raw)
        if self.generator is None:
            return int(scores.argmax(-1))
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self.generator))


def knows_rules(rules: GenerationConfig) -> bool:
    """Whether `Sampler` does all that a language model's generation_config asks for."""
    values = {name: getattr(rules, name, None) for name in _UNSUPPORTED_RULES}
    return not any(value and not (value == 1.0 and name in _OFF_AT_1) for name, value in values.items())


class Lookup:
    """Guesses the next tokens from earlier text (prompt lookup decoding, a form of speculative decoding).

    Reading a few tokens at once takes hardly longer than reading one: either way all weights pass through memory.
    Where an answer repeats a phrase of its own or of the question, the guess is often right, and one pass gives
    several tokens. A guess is used only where the model chooses the same token, so the answer does not change.

    Args:
        ids: the text so far; numbers below 0 are not tokens.
    """

    SIZES = (3, 2)  # tokens that must have occurred in this order before; the longer match counts

    def __init__(self, ids: Iterable[int]) -> None:
        self.ids: list[int] = []
        self._next_places: dict[tuple[int, ...], int] = {}  # after the last occurrence of each short run
        for token in ids:
            self.add(token)

    def add(self, token: int) -> None:
        """Append a token."""
        for size in self.SIZES:
            if len(self.ids) >= size:
                self._next_places[tuple(self.ids[-size:])] = len(self.ids)
        self.ids.append(token)

    def guess(self, max_tokens: int) -> list[int]:
        """At most `max_tokens` tokens that may come next; a repeated phrase is assumed to repeat again."""
        for size in self.SIZES:
            place = self._next_places.get(tuple(self.ids[-size:]))
            if place is None:
                continue
            guessed: list[int] = []
            while len(guessed) < max_tokens:
                at = place + len(guessed)
                token = self.ids[at] if at < len(self.ids) else guessed[at - len(self.ids)]
                if token < 0:
                    break
                guessed.append(token)
            return guessed
        return []
