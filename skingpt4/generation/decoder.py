"""Answers of several conversations decoded together, each with its cache kept between turns.

One thread owns a language model's decoding. A step of it reads a part of one newcomer's prompt and then one token of
every running answer, so a long prompt delays the others by a bounded time. What is computed is what
`SkinGPT4.generate` computes for each prompt alone.
"""

from __future__ import annotations

import atexit
import hashlib
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import torch
from torch import Tensor

from skingpt4.generation.cache import Rows, can_hold
from skingpt4.generation.graphs import Step, can_repeat
from skingpt4.generation.kept_caches import Kept, KeptCaches
from skingpt4.generation.lookup import Lookup
from skingpt4.generation.sampling import Generation, Sampler, knows_rules
from skingpt4.generation.stream import Stream
from skingpt4.generation.whole import answer_whole
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import IMAGE_TOKEN, Encoded
from skingpt4.support.threads import fulfil

T = TypeVar("T")
_DECODERS: weakref.WeakKeyDictionary[SkinGPT4, Decoder] = weakref.WeakKeyDictionary()
_MAKING = threading.Lock()
_OPEN: weakref.WeakSet[Decoder] = weakref.WeakSet()


class Decoder:
    """Decodes for one model. Whoever uses one keeps the model alive: the decoder does not."""

    def __init__(
        self,
        model: SkinGPT4,
        max_rows: int = 16,
        prefill_tokens: int = 256,
        max_idle_seconds: float = 600.0,
        max_cached_bytes: int = 2**31,
        max_guessed: int = 8,
    ) -> None:
        """Start no thread yet.

        Args:
            model: the network.
            max_rows: answers decoded together; more wait.
            prefill_tokens: tokens of newcomers' prompts read between two tokens of the running answers.
            max_idle_seconds: after which a conversation's cache is dropped.
            max_cached_bytes: of all kept caches; those unused for longest are dropped first.
            max_guessed: tokens read ahead in a pass, see `lookup`; 0 never guesses.
        """
        self._model = weakref.ref(model)
        self.max_rows, self.prefill_tokens = max_rows, prefill_tokens
        self.caches = KeptCaches(max_idle_seconds, max_cached_bytes)
        self.max_guessed = max_guessed
        rules = model.language_model.generation_config
        self.reads_whole = not (can_hold(model.language_model.config) and knows_rules(rules))
        self._wake = threading.Condition()
        self._waiting: deque[Stream] = deque()
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._thread: threading.Thread | None = None
        # The thread's own.
        self._reading: Stream | None = None
        self._running: list[Stream] = []
        self._rows: Rows | None = None
        self.repeats = getattr(model, "cuda_graphs", False) and can_repeat(model.language_model)
        self._repeated: Step | None = None
        self._closing = False
        _OPEN.add(self)
        atexit.unregister(close_all)
        atexit.register(close_all)

    @staticmethod
    def of(model: SkinGPT4) -> Decoder:
        """The decoder that all conversations with a model share."""
        with _MAKING:
            if model not in _DECODERS:
                _DECODERS[model] = Decoder(model)
            return _DECODERS[model]

    def keep(self) -> Kept:
        """A place for one conversation's cache; give it to every `submit` of that conversation."""
        return self.caches.new()

    @property
    def is_busy(self) -> bool:
        """Whether any answer is under way."""
        return bool(self._waiting or self._reading or self._running)

    @property
    def cached_bytes(self) -> int:
        """Memory of all kept caches, those in use by an answer left out."""
        return self.caches.num_bytes

    def submit(
        self,
        prompt: Encoded,
        queries: Tensor | None,
        generation: Generation,
        stop: Sequence[str] = (),
        kept: Kept | None = None,
        on_done: Callable[[Stream], None] | None = None,
    ) -> Stream:
        """Have a prompt answered.

        Args:
            prompt: a rendered conversation whose last answer is open.
            queries: (images, q, d) of its pictures, in order; None without pictures.
            generation: how the answer is drawn.
            stop: strings that end it and are cut off.
            kept: the conversation's cache. What the prompt shares with it is not read again.
            on_done: called by the decoder's thread when the answer has ended; must be quick.

        Raises:
            ChatError: a setting outside its range.
        """
        model = self._model()
        assert model is not None, "the model is gone"
        generation.options()
        stream = Stream(prompt, queries, generation, tuple(stop), kept or Kept(), on_done)
        tokenizer = stream._tokenizer = model.tokenizer
        stream._ends = model.end_tokens(stream.stop_strings)
        stream._spelt = tuple(s for s in stream.stop_strings if s not in stream._ends)
        stream._cuts = (*stream.stop_strings, *stream._ends, *filter(None, [tokenizer.pad_token]))
        with self._wake:
            self._waiting.append(stream)
            self._start()
        return stream

    def run(self, work: Callable[[], T]) -> T:
        """Do something else with the model in the decoder's thread, between two tokens; returns what it returns.

        So pictures are encoded and classes scored by the one thread that computes, see `threads`.

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
        """End the thread, answers under way after their present token; a later `submit` starts it again."""
        with self._wake:
            self._closing, thread = True, self._thread
            for stream in [*self._waiting, *self._running, *filter(None, [self._reading])]:
                stream.stop()
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
                    while self._waiting or self._reading or self._running or self._jobs:
                        while self._jobs:
                            fulfil(*self._jobs.popleft())
                        assert model is not None
                        self._read(model)
                        self._step(model)
            except BaseException as error:  # a mistake of ours: nobody may wait for ever
                streams = [*self._running, *filter(None, [self._reading])]
                self._running, self._reading, self._rows, self._repeated = [], None, None, None
                for stream in streams:
                    stream._finish(error=error)
            del model

    def _read(self, model: SkinGPT4) -> None:
        """Read newcomers' prompts, a bounded number of tokens if answers are running."""
        left = self.prefill_tokens if self._running else None
        while left is None or left > 0:
            stream = self._reading = self._reading or self._next()
            if stream is None:
                return
            try:
                if stream.stopped.is_set():
                    self._end_reading(stream)
                    continue
                if self.reads_whole or stream.generation.num_beams > 1:
                    self._reading = None
                    answer_whole(model, stream)
                    continue
                if stream._rows is None:
                    self._begin(model, stream)
                length = self._read_part(model, stream, left)
                left = 0 if left is None else left - length
            except BaseException as error:
                self._reading = None
                if _is_out_of_memory(error):
                    self.caches.drop_all()
                stream._finish(error=error)

    def _next(self) -> Stream | None:
        with self._wake:
            self.caches.drop_idle()
            if self._waiting and len(self._running) < self.max_rows:
                return self._waiting.popleft()
        return None

    def _end_reading(self, stream: Stream) -> None:
        self._reading = None
        if stream._rows is not None:
            self.caches.put_back(stream.kept, [*stream._keys, *stream.ids], stream._rows)
        stream._finish()

    def _begin(self, model: SkinGPT4, stream: Stream) -> None:
        """Embed the prompt and find out what of it the kept cache holds already."""
        ids = stream.prompt.input_ids
        stream._embeds = model.embed(torch.tensor([ids]), stream.queries)
        stream._keys = _keys(ids, stream._embeds[0])
        stream._lookup = Lookup(stream._keys)
        device = stream._embeds.device
        stream._sampler = Sampler(stream.generation, model.language_model.generation_config, device)
        rows, shared = self.caches.take(stream.kept, stream._keys)
        shared = min(shared, len(ids) - 1)  # something must be read to know what follows
        if rows is None or shared == 0:
            rows = Rows(len(ids) + 1)
        else:
            rows.cut(shared)
        stream._rows, stream._num_read = rows, len(ids) - shared

    def _read_part(self, model: SkinGPT4, stream: Stream, most: int | None) -> int:
        """Read at most so many tokens of a prompt; at its end the answer's first token is known."""
        rows, embeds = stream._rows, stream._embeds
        assert rows is not None
        assert embeds is not None
        start = rows.lengths[0]
        end = embeds.shape[1] if most is None else min(embeds.shape[1], start + most)
        logits = _forward(model, rows, end - start, inputs_embeds=embeds[:, start:end], logits_to_keep=1)
        if end == embeds.shape[1]:
            self._reading, stream._embeds = None, None
            assert stream._sampler is not None
            if stream._say(stream._sampler.choose(logits[0, -1], ())) or stream.stopped.is_set():
                self.caches.put_back(stream.kept, [*stream._keys, *stream.ids], rows)
                stream._finish()
            else:
                self._join(stream, rows)
        return end - start

    def _join(self, stream: Stream, rows: Rows) -> None:
        if self._rows is None:
            self._rows = rows
        else:
            self._rows.join(rows)
        stream._rows = None
        self._running.append(stream)
        for running in self._running:
            running._num_rows = max(running._num_rows, len(self._running))

    def _step(self, model: SkinGPT4) -> None:
        """One more token of every running answer; several, if one runs alone and its next ones were guessed."""
        if not self._running:
            return
        rows = self._rows
        assert rows is not None
        alone = len(self._running) == 1 and not self.repeats
        guessed = self._running[0]._guess(self.max_guessed) if alone else []
        try:
            if self.repeats:
                logits = self._repeat(model, rows, [stream.ids[-1] for stream in self._running])
            else:
                device = model.language_model.input_device
                ids = torch.tensor([[stream.ids[-1], *guessed] for stream in self._running], device=device)
                logits = _forward(model, rows, 1 + len(guessed), input_ids=ids)
            likeliest = logits.float().argmax(-1).tolist()
        except BaseException as error:
            self._fail_newest(error)
            return
        for place in reversed(range(len(self._running))):
            stream = self._running[place]
            try:
                used, ended = stream._take(logits[place], likeliest[place], guessed)
                if used <= len(guessed):
                    rows.cut(rows.lengths[0] - (1 + len(guessed) - used))
                if ended:
                    self._leave(place, keep=True)
                    stream._finish()
            except BaseException as error:
                self._leave(place, keep=False)
                stream._finish(error=error)

    def _repeat(self, model: SkinGPT4, rows: Rows, ids: Sequence[int]) -> Tensor:
        """One token of each row by a recorded step, recorded anew when rows come or go or need more columns."""
        rows.reserve(1)
        if self._repeated is None or not self._repeated.fits(rows):
            self._repeated = Step(model.language_model, rows)
        try:
            return self._repeated(ids)
        except RuntimeError as error:
            if _is_out_of_memory(error):
                raise
            why = str(error).strip().splitlines()[0]
            warnings.warn(
                f"language.cuda_graphs: cannot record a token, going on without ({why})", stacklevel=1
            )
            self.repeats, self._repeated = False, None
            device = model.language_model.input_device
            return _forward(model, rows, 1, input_ids=torch.tensor(ids, device=device)[:, None])

    def _fail_newest(self, error: BaseException) -> None:
        """A step failed: who came last pays, the others try again. Kept caches go first if memory was short."""
        assert self._rows is not None
        self._rows.take_back()
        if _is_out_of_memory(error) and self.caches.drop_all():
            return
        stream = self._running[-1]
        self._leave(len(self._running) - 1, keep=False)
        stream._finish(error=error)

    def _leave(self, place: int, keep: bool) -> None:
        rows, stream = self._rows, self._running[place]
        assert rows is not None
        alone = len(self._running) == 1
        if keep and self.caches.wants(stream.kept):
            own = rows if alone and rows.num_reserved == 1 else rows.copy_out(place)
            self.caches.put_back(stream.kept, [*stream._keys, *stream.ids], own)
        if alone:
            self._rows = self._repeated = None
        else:
            rows.leave(place)
        self._running[place] = self._running[-1]
        self._running.pop()


def close_all() -> None:
    """End all decoders' threads: Python, when it ends, would tear them out of the libraries they compute in."""
    for decoder in list(_OPEN):
        decoder.close()


def _forward(model: SkinGPT4, rows: Rows, length: int, **inputs: Any) -> Tensor:
    """Read `length` tokens of each row; returns the logits (rows, tokens, vocabulary), of the last ones at least."""
    rows.reserve(length)
    mask = rows.attention_mask(length)
    device = model.language_model.input_device
    positions = torch.tensor(rows.lengths)[:, None] + torch.arange(length)
    out = model.language_model(
        **inputs,
        attention_mask=None if mask is None else mask.to(device),
        position_ids=positions.to(device),
        past_key_values=rows,
        use_cache=True,
    )
    rows.advance(length)
    return out.logits


def _keys(ids: Sequence[int], embeds: Tensor) -> list[int]:
    """The ids with a picture's places told apart by what stands there, as numbers below 0."""
    keys = list(ids)
    for place, token in enumerate(ids):
        if token == IMAGE_TOKEN:
            content = embeds[place].float().cpu().numpy().tobytes()
            keys[place] = -1 - int.from_bytes(hashlib.blake2b(content, digest_size=7).digest())
    return keys


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in str(error)
