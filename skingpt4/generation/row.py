"""One answer as the decoder sees it: its prompt, its cache, and how its tokens are chosen."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from skingpt4.generation.answer import Answer, Timing
from skingpt4.generation.cache import CacheStore, ConversationCache, Rows
from skingpt4.generation.sampling import Generation, Lookup, Sampler
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import IMAGE_TOKEN, Encoded


@dataclass(eq=False)
class Row:
    """What the decoder needs for one answer; only its thread uses it."""

    answer: Answer
    prompt: Encoded
    queries: Tensor | None
    cache: ConversationCache
    tokenizer: Any
    stop: tuple[str, ...]  # all strings that end the answer
    end_ids: frozenset[int]  # tokens that end it
    spelled_stops: tuple[str, ...]  # those of `stop` that are not a single token
    # Set when reading begins.
    embeds: Tensor | None = None  # (1, t, width), until the prompt has been read
    kv: Rows | None = None  # its own, until it joins the batch
    prompt_keys: list[int] = field(default_factory=list)  # see `_cache_keys`
    sampler: Sampler | None = None
    lookup: Lookup = field(default_factory=lambda: Lookup(()))
    likely_next: list[int] = field(default_factory=list)  # the guess at the next tokens, read ahead or not
    num_guessed: int = 0  # tokens to read ahead in the next pass
    num_read: int = 0
    num_rows: int = 1
    began: float = field(default_factory=time.perf_counter)
    first_token_seconds: float = 0.0

    @classmethod
    def of(
        cls,
        model: SkinGPT4,
        prompt: Encoded,
        queries: Tensor | None,
        generation: Generation,
        stop: Sequence[str] = (),
        cache: ConversationCache | None = None,
        on_done: Callable[[Answer], None] | None = None,
        stopped: threading.Event | None = None,
    ) -> Row:
        """What an answer needs before its prompt is read; arguments as of `Decoder.submit`.

        Raises:
            ChatError: a setting outside its range.
        """
        generation.options()
        ends = model.end_tokens(stop)
        pads = filter(None, [model.tokenizer.pad_token])
        return cls(
            answer=Answer(generation, model.tokenizer, (*stop, *ends, *pads), on_done, stopped),
            prompt=prompt,
            queries=queries,
            cache=cache or ConversationCache(),
            tokenizer=model.tokenizer,
            stop=tuple(stop),
            end_ids=frozenset(ends.values()),
            spelled_stops=tuple(s for s in stop if s not in ends),
        )

    @property
    def generation(self) -> Generation:
        """How the answer is drawn."""
        return self.answer.generation

    @property
    def keys(self) -> list[int]:
        """Of the conversation, the answer included, as `CacheStore` compares them."""
        return [*self.prompt_keys, *self.answer.ids]

    def begin(self, model: SkinGPT4, caches: CacheStore) -> None:
        """Embed the prompt and find out how much of it is cached."""
        ids = self.prompt.input_ids
        self.embeds = model.embed(torch.tensor([ids]), self.queries)
        self.prompt_keys = _cache_keys(ids, self.embeds[0])
        self.lookup = Lookup(self.prompt_keys)
        self.sampler = Sampler(self.generation, model.language_model.generation_config, self.embeds.device)
        kv, num_shared = caches.take(self.cache, self.prompt_keys)
        num_shared = min(num_shared, len(ids) - 1)  # the last token must be read to know what follows
        if kv is None or num_shared == 0:
            kv = caches.new_rows(len(ids) + 1)
        else:
            kv.truncate(num_shared)
        self.kv, self.num_read = kv, len(ids) - num_shared

    def add(self, token: int) -> bool:
        """Add a token; returns whether it was the last."""
        ids = self.answer.ids
        if not ids:
            self.first_token_seconds = time.perf_counter() - self.began
        self.answer.add(token)
        self.lookup.add(token)
        if token in self.end_ids or len(ids) >= self.generation.max_new_tokens:
            return True
        return bool(self.spelled_stops) and self._spells_stop()

    def _spells_stop(self) -> bool:
        """Whether the text has come to a stop string; a token is at least one byte of it."""
        longest = max(len(stop.encode()) for stop in self.spelled_stops)
        tail = self.tokenizer.decode(self.answer.ids[-longest - 4 :])
        return any(stop in tail for stop in self.spelled_stops)

    def guess(self, max_tokens: int) -> list[int]:
        """Tokens that may come next, never so many that the answer could pass its limit.

        On a CPU a token read in vain costs up to half as much as a useful one. So nothing is read ahead until a
        guess that cost nothing was right; then twice as many tokens after each pass whose guesses were all right, and
        none after one with a wrong guess.
        """
        left = self.generation.max_new_tokens - len(self.answer.ids) - 1
        self.likely_next = self.lookup.guess(min(max_tokens, left)) if max_tokens else []
        return self.likely_next[: self.num_guessed]

    def take(self, logits: Tensor, likeliest: Sequence[int], guessed: Sequence[int]) -> tuple[int, bool]:
        """Choose tokens as long as each was the one guessed.

        Args:
            logits: (1 + guesses, vocabulary); each position's are those after the guesses before it.
            likeliest: their argmax.
            guessed: tokens that were read ahead.

        Returns:
            (how many were chosen, whether the answer has ended).
        """
        assert self.sampler is not None
        for place, guess in enumerate([*guessed, None]):
            greedy = self.sampler.is_argmax
            token = likeliest[place] if greedy else self.sampler.choose(logits[place], self.answer.ids)
            ended = self.add(token) or self.answer.stopped.is_set()
            if ended or token != guess:
                break
        if place < len(guessed):
            self.num_guessed = 0
        elif self.likely_next and self.likely_next[place : place + 1] in ([], [token]):
            self.num_guessed = min(max(1, 2 * self.num_guessed), 64)
        return place + 1, ended

    def finish(self, text: str | None = None, error: BaseException | None = None) -> None:
        """End the answer and free what only its decoding needed."""
        self.embeds = self.kv = self.queries = None
        seconds = time.perf_counter() - self.began
        num_tokens = len(self.answer.ids)
        timing = Timing(self.first_token_seconds, seconds, num_tokens, self.num_read, self.num_rows)
        self.answer.finish(timing, text, error)


def _cache_keys(ids: Sequence[int], embeds: Tensor) -> list[int]:
    """The ids, with a hash below 0 of the embedding where an image's vector stands."""
    keys = list(ids)
    for place, token in enumerate(ids):
        if token == IMAGE_TOKEN:
            content = embeds[place].float().cpu().numpy().tobytes()
            keys[place] = -1 - int.from_bytes(hashlib.blake2b(content, digest_size=7).digest())
    return keys


def answer_by_generate(model: SkinGPT4, row: Row, on_token: Callable[[], None]) -> None:
    """Answer one prompt by transformers' own loop, from its beginning; beams have no text before they end.

    Args:
        model: the network.
        row: of the answer.
        on_token: called after each token.
    """
    row.num_read = len(row.prompt.input_ids)
    has_beams = row.generation.num_beams > 1
    with torch.random.fork_rng():
        torch.manual_seed(row.generation.seed)
        text = model.generate(
            [row.prompt],
            row.queries,
            row.stop,
            stopping_criteria=StoppingCriteriaList([_AfterToken(row.answer.stopped, on_token)]),
            streamer=None if has_beams else _Streamer(row),
            **row.generation.options(),
        )[0]
    if has_beams:
        row.answer.ids = row.tokenizer(text, add_special_tokens=False)["input_ids"]
        row.first_token_seconds = time.perf_counter() - row.began
    row.finish(text)


class _Streamer(BaseStreamer):
    """Passes the tokens of `generate` on to a row; its first call shows the prompt."""

    def __init__(self, row: Row) -> None:
        self.row, self.has_prompt = row, False

    def put(self, value: Tensor) -> None:
        if self.has_prompt:
            for token in value.flatten().tolist():
                self.row.add(token)
        self.has_prompt = True

    def end(self) -> None:
        """`Row.finish` follows."""


class _AfterToken(StoppingCriteria):
    """`generate` calls it after each token, to learn whether to stop."""

    def __init__(self, stopped: threading.Event, on_token: Callable[[], None]) -> None:
        self.stopped, self.on_token = stopped, on_token

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        self.on_token()
        return torch.full((len(input_ids),), self.stopped.is_set(), device=input_ids.device)
