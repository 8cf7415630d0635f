"""Stand-ins for llama.cpp: a reader that has transformers compute, and the C functions that `Library` calls."""

import ctypes
from types import SimpleNamespace

import numpy as np
import torch


class StandInReader:
    """Reads each conversation from its beginning at every call, and notices tokens at wrong places.

    Attributes:
        failing: how many calls raise a MemoryError, from the next on.
        num_calls: of `read`.
        biggest: most rows of one call.
    """

    bytes_a_token = 64

    def __init__(self, language_model, max_rows=4, max_tokens=512):
        self.language_model, self.max_rows, self.max_tokens = language_model, max_rows, max_tokens
        self.table = language_model.get_input_embeddings()
        self.vocabulary, self.width = self.table.weight.shape
        self.content = {number: torch.empty(0, self.width) for number in range(max_rows)}
        self.failing = self.num_calls = self.biggest = 0

    @torch.no_grad()
    def read(self, rows, content, num_logits):
        self.num_calls += 1
        self.biggest = max(self.biggest, len(rows))
        if self.failing:
            self.failing -= 1
            raise MemoryError("not enough memory for the conversation in llama.cpp")
        assert len({number for number, _ in rows}) == len(rows) == len(content)
        given = torch.from_numpy(content)
        embeds = given if given.ndim == 3 else self.table(given.long())
        logits = []
        for (number, length), new in zip(rows, embeds, strict=True):
            assert len(self.content[number]) == length, "a conversation is read on from its end"
            self.content[number] = torch.cat([self.content[number], new])
            assert len(self.content[number]) <= self.max_tokens
            out = self.language_model(inputs_embeds=self.content[number][None], use_cache=False)
            logits.append(out.logits[0, -num_logits:].float())
        return torch.stack(logits).numpy()

    def truncate(self, number, length):
        assert length <= len(self.content[number])
        self.content[number] = self.content[number][:length]


class _Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


def package(width=6, vocabulary=5, trained=1000):
    """The C functions, which record what they get in `decoded` and `removed`; a logit is 10 * place + token."""
    alive, decoded, removed = [], [], []
    rows = {}

    def batch_init(size, embd, num_sequences):
        numbers = ctypes.POINTER(ctypes.c_int32)
        one = [(ctypes.c_int32 * 1)() for _ in range(size)]
        arrays = (
            (ctypes.c_int32 * size)() if not embd else None,
            (ctypes.c_float * (size * embd))() if embd else None,
            (ctypes.c_int32 * size)(), (ctypes.c_int32 * size)(),
            (numbers * size)(*(ctypes.cast(each, numbers) for each in one)),
            (ctypes.c_int8 * size)(),
        )  # fmt: skip
        alive.append((one, arrays))
        pointers = [
            ctypes.cast(array, kind) if array is not None else None
            for array, (_, kind) in zip(arrays, _Batch._fields_[1:], strict=True)
        ]
        return _Batch(0, *pointers)

    def decode(context, batch):
        size = batch.n_tokens
        decoded.append({
            "token": [batch.token[i] for i in range(size)] if batch.token else None,
            "embd": [batch.embd[i] for i in range(size * width)] if batch.embd else None,
            "pos": [batch.pos[i] for i in range(size)],
            "seq": [batch.seq_id[i][0] for i in range(size)],
            "counts": [batch.n_seq_id[i] for i in range(size)],
            "logits": [batch.logits[i] for i in range(size)],
        })  # fmt: skip
        return functions.status

    def logits(context, place):
        assert decoded[-1]["logits"][place], "this place has no logits"
        rows[place] = (ctypes.c_float * vocabulary)(*(10 * place + np.arange(vocabulary)))
        return ctypes.cast(rows[place], ctypes.POINTER(ctypes.c_float))

    functions = SimpleNamespace(
        decoded=decoded, removed=removed, status=0, has_model=True, params=None,
        llama_backend_init=lambda: None,
        llama_model_default_params=SimpleNamespace, llama_context_default_params=SimpleNamespace,
        llama_model_load_from_file=lambda path, params: functions.has_model and "model",
        llama_model_n_embd=lambda model: width, llama_model_get_vocab=lambda model: "vocabulary",
        llama_vocab_n_tokens=lambda vocabulary_of: vocabulary, llama_model_n_head=lambda model: 3,
        llama_model_n_head_kv=lambda model: 1, llama_model_n_layer=lambda model: 2,
        llama_model_n_ctx_train=lambda model: trained, llama_get_memory=lambda context: "memory",
        llama_init_from_model=lambda model, params: setattr(functions, "params", params) or "context",
        llama_batch_init=batch_init, llama_batch_free=lambda batch: alive.pop(), llama_decode=decode,
        llama_get_logits_ith=logits,
        llama_memory_seq_rm=lambda memory, number, start, end: removed.append((number, start, end)),
    )  # fmt: skip
    functions.alive = alive
    return functions
