"""An answer on its way from the decoder to whoever listens: its tokens, its text, where it ends."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from skingpt4.generation.cache import Rows
from skingpt4.generation.kept_caches import Kept
from skingpt4.generation.lookup import Lookup
from skingpt4.generation.sampling import Generation, Sampler
from skingpt4.model.network import cut_at
from skingpt4.model.prompts import Encoded


@dataclass(frozen=True)
class Timing:
    """What an answer took, from its submission on."""

    seconds_to_first_token: float
    seconds: float
    num_tokens: int
    num_read_tokens: int  # of the prompt; the others were in the kept cache
    num_rows: int  # the most answers that were decoded together with it, itself included


class Stream:
    """An answer on its way: iterate for its text, piece by piece."""

    def __init__(
        self,
        prompt: Encoded,
        queries: Tensor | None,
        generation: Generation,
        stop: tuple[str, ...],
        kept: Kept,
        on_done: Callable[[Stream], None] | None,
    ) -> None:
        """Made by `Decoder.submit`."""
        self.prompt, self.queries, self.generation, self.kept = prompt, queries, generation, kept
        self.stop_strings, self.on_done = stop, on_done
        self.ids: list[int] = []  # of the answer
        self.text: str | None = None  # the whole answer, when it has ended
        self.error: BaseException | None = None
        self.timing: Timing | None = None
        self._tokens: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.stopped = threading.Event()  # set by whoever no longer listens
        self._done = threading.Event()
        # The decoder's own.
        self._ends: dict[str, int] = {}
        self._cuts: tuple[str, ...] = ()
        self._spelt: tuple[str, ...] = ()
        self._tokenizer: Any = None
        self._sampler: Sampler | None = None
        self._keys: list[int] = []
        self._lookup, self._num_guessed = Lookup(()), 0
        self._foreseen: list[int] = []
        self._embeds: Tensor | None = None
        self._rows: Rows | None = None
        self._num_read, self._num_rows = 0, 1
        self._began, self._first = time.perf_counter(), 0.0

    def stop(self) -> None:
        """End after the present token; what was said stays as the answer."""
        self.stopped.set()

    def result(self) -> str:
        """Wait for the whole answer.

        Raises:
            BaseException: what the decoding of this answer raised.
        """
        self._done.wait()
        if self.error is not None:
            raise self.error
        assert self.text is not None
        return self.text

    def __iter__(self) -> Iterator[str]:
        """Yield the text, holding back what may become a stop string.

        Raises:
            BaseException: what the decoding of this answer raised.
        """
        ids: list[int] = []
        sent, more = "", True
        while more:
            new = [self._tokens.get()]
            while not self._tokens.empty():  # what has come meanwhile is shown at once
                new.append(self._tokens.get_nowait())
            more = None not in new
            ids += [token for token in new if token is not None]
            text = self._tokenizer.decode(ids)
            if text.endswith("\ufffd"):  # a character whose bytes have not all come yet
                continue
            safe = safe_text(text, self._cuts).lstrip()
            if len(safe) > len(sent) and safe.startswith(sent):
                yield safe[len(sent) :]
                sent = safe
        if rest := self.result()[len(sent) :]:
            yield rest

    def _say(self, token: int) -> bool:
        """Add a token; returns whether it was the last."""
        if not self.ids:
            self._first = time.perf_counter() - self._began
        self.ids.append(token)
        self._lookup.add(token)
        self._tokens.put(token)
        if token in self._ends.values() or len(self.ids) >= self.generation.max_new_tokens:
            return True
        return bool(self._spelt) and self._spells_a_stop()

    def _guess(self, most: int) -> list[int]:
        """Tokens that may come next, never so many that the answer could pass its limit.

        A token read in vain costs up to half as much as one of use on a CPU, so none is read before a guess that
        cost nothing has come true, twice as many after each pass that went well, and none after one that failed.
        """
        left = self.generation.max_new_tokens - len(self.ids) - 1
        self._foreseen = self._lookup.guess(min(most, left)) if most else []
        return self._foreseen[: self._num_guessed]

    def _take(self, logits: Tensor, likeliest: Sequence[int], guessed: Sequence[int]) -> tuple[int, bool]:
        """Choose tokens for as long as each was the one guessed.

        Args:
            logits: (1 + guesses, vocabulary); each place's are those after the guesses before it.
            likeliest: their greatest places.
            guessed: tokens.

        Returns:
            (how many were chosen, whether the answer has ended).
        """
        assert self._sampler is not None
        for place, guess in enumerate([*guessed, None]):
            greedy = self._sampler.is_argmax
            token = likeliest[place] if greedy else self._sampler.choose(logits[place], self.ids)
            ended = self._say(token) or self.stopped.is_set()
            if ended or token != guess:
                break
        if place < len(guessed):
            self._num_guessed = 0
        elif self._foreseen and self._foreseen[place : place + 1] in ([], [token]):
            self._num_guessed = min(max(1, 2 * self._num_guessed), 64)
        return place + 1, ended

    def _spells_a_stop(self) -> bool:
        """Whether the text has come to a stop string; a token is at least a byte of it."""
        longest = max(len(stop.encode()) for stop in self._spelt)
        tail = self._tokenizer.decode(self.ids[-longest - 4 :])
        return any(stop in tail for stop in self._spelt)

    def _finish(self, text: str | None = None, error: BaseException | None = None) -> None:
        if error is None and text is None:
            text = cut_at(self._tokenizer.decode(self.ids), self._cuts)
        self.text, self.error = text, error
        self._embeds = self._rows = self.queries = None
        seconds = time.perf_counter() - self._began
        self.timing = Timing(self._first, seconds, len(self.ids), self._num_read, self._num_rows)
        self._done.set()
        self._tokens.put(None)
        if self.on_done is not None:
            self.on_done(self)


def safe_text(text: str, stops: Sequence[str]) -> str:
    """The text up to a stop string, or up to what may be the beginning of one, without trailing blanks."""
    for stop in stops:
        text = text.split(stop)[0]
    for stop in stops:
        for length in range(len(stop) - 1, 0, -1):
            if text.endswith(stop[:length]):
                text = text[:-length]
                break
    return text.rstrip()
