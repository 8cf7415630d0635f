"""Decodes the answers of several conversations together.

One thread owns the decoding of a language model. Each of its rounds does one job, such as encoding an image, reads a
part of one new prompt, and then decodes one token of every running answer. So nothing delays the others for long.
Each answer has the tokens that `SkinGPT4.generate` gives for its prompt alone. A conversation's cache is kept between
its turns. An answer by beam search is given by `generate` itself; between two of its tokens the others get a round.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import torch
from torch import Tensor

from skingpt4.generation.answer import Answer
from skingpt4.generation.batch import Batch, can_cache
from skingpt4.generation.cache import CacheStore, ConversationCache, KVCache, Rows
from skingpt4.generation.row import Row, answer_by_generate
from skingpt4.generation.sampling import Generation, knows_rules
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import Encoded
from skingpt4.support.errors import is_out_of_memory
from skingpt4.support.threads import fulfil

T = TypeVar("T")
_DECODERS: weakref.WeakKeyDictionary[SkinGPT4, Decoder] = weakref.WeakKeyDictionary()
_DECODERS_LOCK = threading.Lock()
_OPEN: weakref.WeakSet[Decoder] = weakref.WeakSet()


class Decoder:
    """Decodes for one model. Its users keep the model alive: the decoder does not.

    Args:
        model: the network.
        max_rows: answers decoded together; more wait.
        prefill_tokens: tokens of new prompts read between two tokens of the running answers.
        max_idle_seconds: after which a conversation's cache is dropped.
        max_cached_bytes: of all cached conversations; those unused for longest are dropped first.
        max_guessed: tokens read ahead in a pass, see `Lookup`; 0 never guesses.
        new_rows: see `CacheStore`; what reads the tokens comes with it.
    """

    def __init__(
        self,
        model: SkinGPT4,
        max_rows: int = 16,
        prefill_tokens: int = 256,
        max_idle_seconds: float = 600.0,
        max_cached_bytes: int = 2**31,
        max_guessed: int = 8,
        new_rows: Callable[[int], Rows] = KVCache,
    ) -> None:
        self._model = weakref.ref(model)
        self.max_rows, self.prefill_tokens = max_rows, prefill_tokens
        self.caches = CacheStore(max_idle_seconds, max_cached_bytes, new_rows)
        # Models whose state cannot be cached, or whose rules `Sampler` lacks, answer by transformers' own loop.
        rules = model.language_model.generation_config
        self.uses_generate = not (can_cache(model.language_model.config) and knows_rules(rules))
        self._wake = threading.Condition()
        self._waiting: deque[Row] = deque()
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._thread: threading.Thread | None = None
        self._closing = False
        # Only the decoder's thread uses these.
        self._reading: Row | None = None
        self.batch = Batch(self.caches, max_guessed)
        self._generating: Row | None = None  # by `generate`, one at a time
        self._set_aside: deque[Row] = deque()  # wait for `generate`
        _OPEN.add(self)
        atexit.unregister(close_all)
        atexit.register(close_all)

    @staticmethod
    def of(model: SkinGPT4) -> Decoder:
        """The decoder that all conversations with a model share."""
        with _DECODERS_LOCK:
            if model not in _DECODERS:
                _DECODERS[model] = Decoder(model)
            return _DECODERS[model]

    def new_cache(self) -> ConversationCache:
        """A place for one conversation's cache; pass it to every `submit` of that conversation."""
        return self.caches.new()

    @property
    def is_busy(self) -> bool:
        """Whether any answer is under way."""
        parts = (self._waiting, self._reading, self.batch, self._generating, self._set_aside)
        return any(parts)

    @property
    def cached_bytes(self) -> int:
        """Memory of all cached conversations, except those that an answer is using."""
        return self.caches.num_bytes

    def submit(
        self,
        prompt: Encoded,
        queries: Tensor | None,
        generation: Generation,
        stop: Sequence[str] = (),
        cache: ConversationCache | None = None,
        on_done: Callable[[Answer], None] | None = None,
        stopped: threading.Event | None = None,
    ) -> Answer:
        """Start answering a prompt.

        Args:
            prompt: a rendered conversation whose last answer is open.
            queries: (images, q, d) of its images, in order; None without images.
            generation: how the answer is drawn.
            stop: strings that end it and are cut off.
            cache: the conversation's. What the prompt shares with it is not read again.
            on_done: called by the decoder's thread when the answer has ended; must be quick.
            stopped: the answer's; whoever has it may end the answer before it is submitted.

        Raises:
            ChatError: a setting outside its range.
        """
        model = self._model()
        assert model is not None, "the model is gone"
        row = Row.of(model, prompt, queries, generation, stop, cache, on_done, stopped)
        with self._wake:
            self._waiting.append(row)
            self._start()
        return row.answer

    def run(self, work: Callable[[], T]) -> T:
        """Do other work with the model in the decoder's thread, between two tokens; returns its result.

        The thread that decodes also encodes images and scores classes: see `skingpt4.support.threads` for why.

        Raises:
            BaseException: what the work raises.
        """
        if threading.current_thread() is self._thread:
            return work()
        future: Future[T] = Future()
        with self._wake:
            self._jobs.append((future, work))
            self._start()
        return future.result()

    def close(self) -> None:
        """End the thread, and running answers after their present token; a later `submit` starts it again."""
        with self._wake:
            self._closing, thread = True, self._thread
            single = filter(None, [self._reading, self._generating])
            for row in [*self._waiting, *self._set_aside, *self.batch.rows, *single]:
                row.answer.stop()
            self._wake.notify()
        if thread is not None:
            thread.join(60.0)

    def _start(self) -> None:
        self._closing = False
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)
            self._thread.start()
        self._wake.notify()

    # ---- the thread

    def _run(self) -> None:
        while True:
            with self._wake:
                self.caches.drop_idle()
                while not (self._waiting or self._jobs):
                    if self._closing or self.caches.is_empty:
                        self._thread = None
                        return
                    self._wake.wait(min(60.0, self.caches.max_idle_seconds))
                    self.caches.drop_idle()
            model = self._model()
            try:
                with torch.no_grad():
                    while self.is_busy or self._jobs:
                        assert model is not None
                        self._round(model)
            except BaseException as error:  # a bug of ours: nobody may wait forever
                self._fail_all(error)
            del model

    def _round(self, model: SkinGPT4) -> None:
        """Let everybody go on by a step."""
        self._end_stopped()
        if self._jobs:
            fulfil(*self._jobs.popleft())
        self._read(model)
        self.batch.step(model)

    def _end_stopped(self) -> None:
        """End the waiting answers that nobody wants any more."""
        for waiting in (self._waiting, self._set_aside):
            for row in [row for row in list(waiting) if row.answer.stopped.is_set()]:
                with self._wake:
                    waiting.remove(row)
                row.finish()

    def _read(self, model: SkinGPT4) -> None:
        """Read new prompts; if answers are running, only a bounded number of tokens."""
        left = self.prefill_tokens if self.batch or self._generating else None
        while left is None or left > 0:
            row = self._reading = self._reading or self._next()
            if row is None:
                return
            try:
                if row.answer.stopped.is_set():
                    self._reading = None
                    if row.kv is not None:
                        self.caches.put_back(row.cache, row.keys, row.kv)
                    row.finish()
                    continue
                if self._needs_generate(row):
                    self._reading = None
                    self._generate(model, row)
                    return
                if row.kv is None:
                    row.begin(model, self.caches)
                length = self._read_part(model, row, left)
                left = 0 if left is None else left - length
            except BaseException as error:
                self._reading = None
                if is_out_of_memory(error):
                    self.caches.drop_all()
                row.finish(error=error)

    def _needs_generate(self, row: Row) -> bool:
        return self.uses_generate or row.generation.num_beams > 1

    def _generate(self, model: SkinGPT4, row: Row) -> None:
        """Answer by `generate`; between two of its tokens the other answers get a round."""
        if self._generating is not None:
            self._set_aside.append(row)
            return
        self._generating = row
        try:
            answer_by_generate(model, row, lambda: self._round(model))
        except BaseException as error:
            if is_out_of_memory(error):
                self.caches.drop_all()
            row.finish(error=error)
        finally:
            self._generating = None

    def _next(self) -> Row | None:
        with self._wake:
            self.caches.drop_idle()
            if self._set_aside and self._generating is None:
                return self._set_aside.popleft()
            if self._waiting and len(self.batch) < self.max_rows:
                return self._waiting.popleft()
        return None

    def _read_part(self, model: SkinGPT4, row: Row, max_tokens: int | None) -> int:
        """Read part of a prompt; at its end the answer's first token is known. Returns the number of tokens read."""
        kv, embeds = row.kv, row.embeds
        assert kv is not None
        assert embeds is not None
        start = kv.lengths[0]
        end = embeds.shape[1] if max_tokens is None else min(embeds.shape[1], start + max_tokens)
        part = embeds[:, start:end]
        logits = kv.read(model.language_model, end - start, inputs_embeds=part, logits_to_keep=1)
        if end == embeds.shape[1]:
            self._reading, row.embeds = None, None
            assert row.sampler is not None
            if row.add(row.sampler.choose(logits[0, -1], ())) or row.answer.stopped.is_set():
                self.caches.put_back(row.cache, row.keys, kv)
                row.finish()
            else:
                self.batch.join(row, kv)
        return end - start

    def _fail_all(self, error: BaseException) -> None:
        self.batch.fail_all(error)
        rows = [*self._set_aside, *filter(None, [self._reading])]
        self._reading = None
        self._set_aside.clear()
        for row in rows:
            row.finish(error=error)


def close_all() -> None:
    """End all decoders' threads: when Python ends, it would tear them out of the libraries they compute in."""
    for decoder in list(_OPEN):
        decoder.close()
