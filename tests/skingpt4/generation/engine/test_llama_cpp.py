"""Answers that llama.cpp's rows give: the same as this program's own, whoever asks beside; and its C functions."""

import gc
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from skingpt4.chat.session import context_limit
from skingpt4.config.schema import EngineConfig
from skingpt4.generation.decoder import Decoder
from skingpt4.generation.engine import llama_cpp
from skingpt4.generation.engine.client import EngineError
from skingpt4.generation.engine.decoder import decoder_of, require_engine
from skingpt4.generation.engine.llama_cpp import LlamaCppDecoder
from skingpt4.generation.engine.llama_library import Library
from skingpt4.generation.sampling import Generation
from skingpt4.weights.gguf_file import GgufError
from tests.support import llama_cpp as stand_ins
from tests.support.tiny import conversation, make_model, make_queries

CONFIG = EngineConfig("llama_cpp", file="model.gguf")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("llama_cpp"))


@pytest.fixture
def decoder(model):
    made = LlamaCppDecoder(model, CONFIG, stand_ins.StandInReader(model.language_model))
    yield made
    made.close()


def free_of(decoder):
    decoder.caches.drop_all()
    gc.collect()
    return sorted(decoder.conversations.free)


def ask(decoder, model, question="What is it?", seed=0, tokens=12, **more):
    generation = Generation(max_new_tokens=tokens, **more.pop("drawn", {}))
    return decoder.submit(conversation(model, question), make_queries(1, seed), generation, ("###",), **more)


@pytest.mark.parametrize("drawn", [{}, {"temperature": 1.0, "seed": 5}])
def test_tokens_of_many_at_once_are_those_of_the_own_decoder(model, decoder, drawn):
    own = Decoder(model)
    there, here = (
        [ask(d, model, "What is it?" + " Why?" * n, n, 5 + 7 * n, drawn=drawn) for n in range(7)]
        for d in (decoder, own)
    )
    assert [answer.result() for answer in there] == [answer.result() for answer in here]
    assert [answer.ids for answer in there] == [answer.ids for answer in here]
    own.close()


def test_a_later_turn_reads_only_what_is_new(model, decoder):
    cache, before = decoder.new_cache(), decoder.conversations.reader.num_calls
    first = ask(decoder, model, cache=cache)
    first.result()
    again = ask(decoder, model, cache=cache)
    assert again.result() == first.result()
    assert again.timing.num_read_tokens == 1 < first.timing.num_read_tokens
    assert decoder.conversations.reader.num_calls > before


def test_more_conversations_than_rows_are_all_answered_and_every_row_comes_back(model, decoder):
    caches = [decoder.new_cache() for _ in range(9)]
    for cache in caches[:5]:
        ask(decoder, model, cache=cache).result()
    assert [cache.kv is not None for cache in caches[:5]] == [False, True, True, True, True]
    for _ in range(2):
        answers = [ask(decoder, model, seed=n, cache=cache) for n, cache in enumerate(caches)]
        texts = [answer.result() for answer in answers]
    assert len(set(texts)) > 1
    assert decoder.conversations.reader.biggest > 1
    decoder.close()
    del answers, caches
    assert free_of(decoder) == [0, 1, 2, 3]


def test_when_memory_is_short_cached_conversations_go_first_and_nobody_else_fails(model, decoder):
    expected = ask(decoder, model, seed=1).result()
    cache = decoder.new_cache()
    ask(decoder, model, cache=cache).result()
    assert cache.kv is not None
    answer = ask(decoder, model, seed=1, tokens=12)
    next(iter(answer))
    decoder.conversations.reader.failing = 1
    assert answer.result() == expected
    assert cache.kv is None


def test_a_conversation_that_is_too_long_is_refused_before_it_is_read(model):
    reader = stand_ins.StandInReader(model.language_model, max_tokens=8)
    decoder = LlamaCppDecoder(model, CONFIG, reader)
    with pytest.raises(EngineError, match=r"llama.cpp has room for 8; start a new one"):
        ask(decoder, model).result()
    assert reader.num_calls == 0
    decoder.close()


def test_another_language_model_is_refused(model, decoder, tmp_path):
    decoder.check(model)
    other = make_model(tmp_path).language_model
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    changed = LlamaCppDecoder(model, CONFIG, stand_ins.StandInReader(other))
    with pytest.raises(EngineError, match=r"model.gguf: is of another language model .* differ by"):
        changed.check(model)
    changed.close()
    wide = stand_ins.StandInReader(model.language_model)
    wide.width += 8
    with pytest.raises(EngineError, match="and this checkpoint's language model"):
        LlamaCppDecoder(model, CONFIG, wide)
    with pytest.raises(EngineError, match=r"engine.closed_sets: llama_cpp computes none"):
        LlamaCppDecoder(model, replace(CONFIG, closed_sets="engine"), decoder.conversations.reader)


def test_a_configuration_chooses_it_and_one_decoder_serves_all(monkeypatch, tmp_path):
    model = make_model(tmp_path)
    reader = stand_ins.StandInReader(model.language_model, max_tokens=90)
    monkeypatch.setattr(llama_cpp, "Library", lambda path, threads: reader)
    require_engine(model, CONFIG)
    decoder = decoder_of(model, CONFIG)
    assert decoder is decoder_of(model, CONFIG, max_rows=2)
    assert decoder is not decoder_of(model, EngineConfig())
    assert context_limit(model) == 90
    decoder.close()
    with pytest.raises(EngineError, match=r"engine.file: name the GGUF file"):
        decoder_of(model, EngineConfig("llama_cpp"))


# ---- the C functions


@pytest.fixture
def package(monkeypatch):
    made = stand_ins.package()
    monkeypatch.setitem(sys.modules, "llama_cpp", made)
    return made


@pytest.fixture
def library(package, tmp_path):
    (tmp_path / "model.gguf").touch()
    return Library(tmp_path / "model.gguf", num_threads=3)


def test_room_follows_the_memory(package, library):
    assert (library.width, library.vocabulary, library.bytes_a_token) == (6, 5, 2 * 2 * 2 * 2)
    assert (library.max_tokens, library.max_rows) == (768, 16), "of 1000 tokens, in pages"
    assert (package.params.n_seq_max, package.params.n_ctx, package.params.n_threads) == (16, 16 * 768, 3)


def test_embeddings_go_in_row_by_row(package, library):
    content = np.arange(2 * 3 * 6, dtype=np.float64).reshape(2, 3, 6)
    logits = library.read([(4, 10), (1, 0)], content, 1)
    (seen,) = package.decoded
    assert seen == {
        "token": None, "embd": list(range(36)), "pos": [10, 11, 12, 0, 1, 2], "seq": [4, 4, 4, 1, 1, 1],
        "counts": [1] * 6, "logits": [0, 0, 1, 0, 0, 1],
    }  # fmt: skip
    assert logits.tolist() == [[[20, 21, 22, 23, 24]], [[50, 51, 52, 53, 54]]]
    assert package.alive == []


def test_ids_go_in_with_all_their_logits(package, library):
    logits = library.read([(2, 7)], np.array([[3, 1]]), 2)
    assert package.decoded[0]["token"] == [3, 1]
    assert package.decoded[0]["embd"] is None
    assert logits[0, :, 0].tolist() == [0, 10]
    library.truncate(2, 7)
    assert package.removed == [(2, 7, -1)]


def test_failures_are_said(package, library, tmp_path, monkeypatch):
    package.status = 1
    with pytest.raises(MemoryError):
        library.read([(0, 0)], np.array([[1]]), 1)
    package.status = -3
    with pytest.raises(EngineError, match=r"llama.cpp failed with status -3"):
        library.read([(0, 0)], np.array([[1]]), 1)
    assert package.alive == []
    with pytest.raises(EngineError, match=r"none.gguf: no such file; skingpt4 export --llama-cpp writes it"):
        Library(tmp_path / "none.gguf", 1)
    package.has_model = False
    with pytest.raises(EngineError, match=r"llama.cpp cannot read it"):
        Library(tmp_path / "model.gguf", 1)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(GgufError, match="run pip install llama-cpp-python"):
        Library(tmp_path / "model.gguf", 1)
