"""llama.cpp as a reader of numbered conversations, through the C functions of the package llama-cpp-python."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from skingpt4.generation.engine.client import EngineError
from skingpt4.weights.gguf_file import llama_cpp_package

MEMORY = 2**31  # bytes of all conversations' keys and values, if that is enough for two of them
MAX_ROWS = 16
PAGE = 256  # tokens; llama.cpp rounds a conversation's room up to it


class Reader(Protocol):
    """What reads tokens into numbered conversations, each of which has room for `max_tokens`."""

    max_tokens: int
    max_rows: int
    bytes_a_token: int
    width: int
    vocabulary: int

    def read(self, rows: Sequence[tuple[int, int]], content: np.ndarray, num_logits: int) -> np.ndarray:
        """Logits at the last `num_logits` places of each row, (rows, num_logits, vocabulary).

        Args:
            rows: (conversation, its length) of each.
            content: embeddings (rows, t, width) in fp32, or ids (rows, t).
            num_logits: at most t.
        """

    def truncate(self, number: int, length: int) -> None:
        """Forget all but a conversation's first tokens."""


class Library:
    """llama.cpp with one file; see `Reader`.

    Args:
        path: a GGUF file.
        num_threads: that compute.

    Raises:
        GgufError: the package is not installed.
        EngineError: it cannot read the file.
    """

    def __init__(self, path: Path, num_threads: int) -> None:
        self._lib = lib = llama_cpp_package()
        if not path.is_file():
            raise EngineError(f"engine.file {path}: no such file; skingpt4 export --llama-cpp writes it")
        self._model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        if not self._model:
            raise EngineError(f"engine.file {path}: llama.cpp cannot read it")
        self.width: int = lib.llama_model_n_embd(self._model)
        self.vocabulary: int = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))
        heads = lib.llama_model_n_head(self._model), lib.llama_model_n_head_kv(self._model)
        self.bytes_a_token = 4 * lib.llama_model_n_layer(self._model) * self.width * heads[1] // heads[0]
        trained: int = lib.llama_model_n_ctx_train(self._model)
        self.max_tokens = max(PAGE, min(trained, 4096) // PAGE * PAGE)
        self.max_rows = max(2, min(MAX_ROWS, MEMORY // (self.max_tokens * self.bytes_a_token)))
        params = lib.llama_context_default_params()
        params.n_seq_max, params.n_ctx = self.max_rows, self.max_rows * self.max_tokens
        params.n_batch = params.n_ctx
        params.n_threads = params.n_threads_batch = num_threads
        self._context = lib.llama_init_from_model(self._model, params)
        if not self._context:
            raise EngineError(
                f"engine.file {path}: llama.cpp finds no memory for {self.max_rows} conversations"
            )
        self._memory = lib.llama_get_memory(self._context)

    def read(self, rows: Sequence[tuple[int, int]], content: np.ndarray, num_logits: int) -> np.ndarray:
        """As of `Reader`.

        Raises:
            MemoryError: a conversation has no room left.
            EngineError: llama.cpp failed.
        """
        length = content.shape[1]
        batch = self._lib.llama_batch_init(len(rows) * length, self.width if content.ndim == 3 else 0, 1)
        batch.n_tokens = len(rows) * length
        kind, target = (np.float32, batch.embd) if content.ndim == 3 else (np.int32, batch.token)
        given = np.ascontiguousarray(content, kind)
        ctypes.memmove(target, given.ctypes.data, given.nbytes)
        for place, (row, offset) in enumerate(itertools.product(range(len(rows)), range(length))):
            number, start = rows[row]
            batch.pos[place], batch.n_seq_id[place] = start + offset, 1
            batch.seq_id[place][0], batch.logits[place] = number, offset >= length - num_logits
        try:
            status = self._lib.llama_decode(self._context, batch)
            if status == 1:
                raise MemoryError("not enough memory for the conversation in llama.cpp")
            if status:
                raise EngineError(f"llama.cpp failed with status {status}")
            return self._logits(len(rows), length, num_logits)
        finally:
            self._lib.llama_batch_free(batch)

    def _logits(self, num_rows: int, length: int, num_logits: int) -> np.ndarray:
        result = np.empty((num_rows, num_logits, self.vocabulary), np.float32)
        for row, place in itertools.product(range(num_rows), range(num_logits)):
            there = (row + 1) * length - num_logits + place
            found = self._lib.llama_get_logits_ith(self._context, there)
            result[row, place] = np.ctypeslib.as_array(found, (self.vocabulary,))
        return result

    def truncate(self, number: int, length: int) -> None:
        """As of `Reader`."""
        self._lib.llama_memory_seq_rm(self._memory, number, length, -1)
