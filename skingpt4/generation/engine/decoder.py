"""A vLLM server in the place of `Decoder`: prompts are embedded here, and the server writes the answers.

Pictures are encoded, projected and put into the prompt's embeddings by this program, so the server has the language
model alone. It sends token ids; from them on an answer is what it is with `Decoder`: the same stop strings, the same
text. Closed sets and heat maps are computed by this program's own language model, and so are answers by beam search.
One thread talks to the server, for all answers at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from typing import Any, TypeVar

from torch import Tensor

from skingpt4.config.schema import EngineConfig
from skingpt4.generation.answer import Answer
from skingpt4.generation.cache import ConversationCache
from skingpt4.generation.decoder import Decoder
from skingpt4.generation.engine.client import HEALTH_SECONDS, EngineClient, EngineError, require_safe
from skingpt4.generation.engine.llama_cpp import LlamaCppDecoder
from skingpt4.generation.engine.trial import require_same_model, trial_request
from skingpt4.generation.engine.wire import (
    MAX_TOKENS,
    Served,
    embedded,
    encoded,
    request_of,
    scores_of,
    scoring_request,
    served_model,
    tokens_of,
)
from skingpt4.generation.row import Row
from skingpt4.generation.sampling import Generation
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import Encoded

logger = logging.getLogger(__name__)

T = TypeVar("T")
POLL_SECONDS = 0.1  # between two looks whether somebody still waits for an answer
_ENGINES: weakref.WeakKeyDictionary[SkinGPT4, EngineDecoder] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


def decoder_of(model: SkinGPT4, config: EngineConfig, max_rows: int | None = None) -> Decoder | EngineDecoder:
    """What writes a model's answers.

    Args:
        model: the network.
        config: in process, or the server.
        max_rows: answers decoded together by a `Decoder` of its own; None takes the one that all share.

    Raises:
        EngineError, RemoteAddressError: as of `EngineDecoder`.
        GgufError: as of `LlamaCppDecoder`.
    """
    if config.name == "in_process":
        return Decoder.of(model) if max_rows is None else Decoder(model, max_rows=max_rows)
    with _LOCK:
        if config.name == "llama_cpp":
            return LlamaCppDecoder.for_model(model, config)
        engine = _ENGINES.get(model)
        if engine is None or engine.config != config:
            engine = _ENGINES[model] = EngineDecoder(model, config)
        return engine


def scoring_engine(model: SkinGPT4) -> EngineDecoder | None:
    """The server that computes a model's closed sets; None where this program does."""
    engine = _ENGINES.get(model)
    return engine if engine is not None and engine.config.closed_sets == "engine" else None


def engine_limit(model: SkinGPT4) -> int | None:
    """Tokens that a model's engine can read; None if it sets no limit, or this program writes the answers."""
    engine = _ENGINES.get(model) or LlamaCppDecoder.existing(model)
    return engine.max_tokens if engine else None


def require_engine(model: SkinGPT4, config: EngineConfig) -> None:
    """Refuse an engine that cannot be used for this model, before the first question; nothing to do in process.

    Raises:
        RemoteError, RemoteAddressError: as of `EngineDecoder.check`.
        GgufError, EngineError: as of `LlamaCppDecoder`.
    """
    decoder = decoder_of(model, config)
    if isinstance(decoder, EngineDecoder):
        served = decoder.check()
        logger.info("answers are written by the engine at %s, model %s", config.url, served)
    elif isinstance(decoder, LlamaCppDecoder):
        decoder.check(model)
        logger.info("answers are written by llama.cpp with %s", config.file)


class EngineDecoder:
    """Has a server answer for one model, whose users keep it alive; see `Decoder`, whose place it takes.

    Args:
        model: the network.
        config: of the server.

    Raises:
        EngineError, RemoteAddressError: the server may not be used, or cannot draw as this language model asks.
    """

    def __init__(self, model: SkinGPT4, config: EngineConfig) -> None:
        require_safe(config)
        self.config = config
        self._model = weakref.ref(model)
        self._local = Decoder.of(model)
        rules = model.language_model.generation_config
        if self._local.uses_generate or rules.no_repeat_ngram_size:
            raise EngineError(
                "engine: vllm cannot draw answers by the rules of this language model's generation_config.json, or "
                "cannot hold its state; leave engine out"
            )
        self._penalty = float(rules.repetition_penalty or 1.0)
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        # Only the engine's thread uses these.
        self._client: EngineClient | None = None
        self._slots: asyncio.Semaphore | None = None
        self._served: Served | None = None
        self._running = set[Row]()
        self._look: asyncio.Future[bool] | None = None
        self._looked = 0.0

    def new_cache(self) -> ConversationCache:
        """What holds a conversation together; pass it to every `submit` of that conversation."""
        return self._local.new_cache()

    def run(self, work: Callable[[], T]) -> T:
        """Do other work with the model in the thread that computes; see `Decoder.run`."""
        return self._local.run(work)

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
        """Start answering a prompt; arguments as of `Decoder.submit`.

        Raises:
            ChatError: a setting outside its range.
            EngineError: the prompt is larger than may be sent.
        """
        if generation.num_beams > 1:
            return self._local.submit(prompt, queries, generation, stop, cache, on_done, stopped)
        model = self._required()
        row = Row.of(model, prompt, queries, generation, stop, cache, on_done, stopped)
        row.num_read = len(prompt.input_ids)
        embeds = self.run(lambda: embedded(model, prompt.input_ids, queries))
        size = embeds.numel() * embeds.element_size() * 4 / 3 / 2**20
        if size > self.config.max_prompt_mb:
            raise EngineError(
                f"the conversation takes {size:.1f} MB as it is sent to the engine, and engine.max_prompt_mb is "
                f"{self.config.max_prompt_mb}; start a new one, or set the key higher"
            )
        self._background(self._answer(row, encoded(embeds)))
        return row.answer

    @property
    def max_tokens(self) -> int | None:
        """Of a conversation with its answer at the server; None if it sets no limit, or was not asked yet."""
        return self._served.max_tokens if self._served else None

    def log_probabilities(self, asked: Sequence[tuple[Tensor, Sequence[int]]]) -> list[list[float]]:
        """Of tokens after prompts.

        Args:
            asked: (embeddings (t, width), the tokens of which one may follow) of each prompt.

        Raises:
            RemoteError: the server does not answer, or gives no such probabilities.
        """
        return self._background(self._log_probabilities(asked, secrets.token_hex(16))).result()

    def check(self) -> str:
        """Ask the server for its models and for a few tokens, and compare these with this program's language model.

        Returns:
            The name under which the server has the model.

        Raises:
            RemoteError: it cannot be reached now.
            EngineError: it does not have this language model, or cannot do what an engine has to.
        """
        model = self._required()
        served = self._background(self._served_name()).result()
        body = self.run(lambda: trial_request(model, served))
        answer = self._background(self._ask("POST", "/completions", json.dumps(body).encode())).result()
        self.run(lambda: require_same_model(model, answer, self.config.url))
        return served

    def is_up(self) -> Future[bool]:
        """Whether the server says that it is well, within seconds; no thread needs to wait for it."""
        return self._background(self._is_up())

    def _required(self) -> SkinGPT4:
        model = self._model()
        assert model is not None, "the model is gone"
        return model

    def _background(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Let the engine's thread do something."""
        with self._starting:
            if self._loop is None:
                self._loop, self._slots = asyncio.new_event_loop(), asyncio.Semaphore(self.config.max_answers)
                threading.Thread(target=self._loop.run_forever, name="engine", daemon=True).start()
                weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    # ---- the thread

    def _connected(self) -> EngineClient:
        if self._client is None:
            self._client = EngineClient(self.config)
        return self._client

    async def _ask(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        return await self._connected().ask(method, path, body)

    async def _is_up(self) -> bool:
        # The server is asked once, however many ask here, and again only some time after it answered or did not.
        if self._look is None or (self._look.done() and time.monotonic() - self._looked > HEALTH_SECONDS):
            self._look = asyncio.ensure_future(self._looked_at())
        return await asyncio.shield(self._look)

    async def _looked_at(self) -> bool:
        try:
            return await self._connected().is_up()
        finally:
            self._looked = time.monotonic()

    async def _served_name(self) -> str:
        if self._served is None:
            answer = await self._ask("GET", "/models")
            self._served = served_model(answer, self.config.model, self.config.url)
        return self._served.name

    async def _log_probabilities(
        self, asked: Sequence[tuple[Tensor, Sequence[int]]], conversation: str
    ) -> list[list[float]]:
        served = await self._served_name()

        async def ask(embeds: Tensor, tokens: Sequence[int]) -> list[float]:
            found: list[float] = []
            for start in range(0, len(tokens), MAX_TOKENS):
                some = tokens[start : start + MAX_TOKENS]
                assert self._slots is not None
                async with self._slots:
                    body = json.dumps(scoring_request(embeds, some, served, conversation)).encode()
                    answer = await self._connected().ask("POST", "/completions", body, conversation)
                found += scores_of(answer, some, self.config.url)
            return found

        first = await ask(*asked[0])  # what all prompts begin with is then cached
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(ask(*each)) for each in asked[1:]]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [first, *(task.result() for task in running)]

    async def _answer(self, row: Row, prompt: str) -> None:
        """Write one answer, and end it whatever happens."""
        self._running.add(row)
        error: BaseException | None = None
        reading = asyncio.ensure_future(self._read(row, prompt))
        try:
            while not reading.done():
                await asyncio.wait({reading}, timeout=POLL_SECONDS)
                if row.answer.stopped.is_set():
                    reading.cancel()
            reading.result()
        except asyncio.CancelledError:  # nobody waits for it any more; what has been written stays
            pass
        except BaseException as failure:
            error = failure
        self._running.discard(row)
        row.finish(error=error)

    async def _read(self, row: Row, prompt: str) -> None:
        assert self._slots is not None
        async with self._slots:
            for running in self._running:
                running.num_rows = max(running.num_rows, len(self._running))
            body = json.dumps(request_of(row, prompt, await self._served_name(), self._penalty)).encode()
            async with aclosing(self._connected().stream("/completions", body, row.cache.token)) as items:
                async for item in items:
                    for token in tokens_of(item, self.config.url):
                        if row.add(token):
                            return
