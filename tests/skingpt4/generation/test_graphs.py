"""Recorded steps: the same tokens on a cache whose every column is attended to, run here without recording."""

import pytest

from skingpt4.generation import graphs
from skingpt4.generation.decoder import Decoder
from skingpt4.generation.sampling import Generation
from skingpt4.model.prompts import Turn
from tests.skingpt4.generation.test_decoder import QUESTION, STOP, alone, encoded
from tests.support.tiny import make_model, make_queries, one_thread  # noqa: F401


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("graphs")


def repeating(model):
    decoder = Decoder(model)
    assert not decoder.repeats, "off by default, and on a CPU there is nothing to record"
    decoder.repeats = True
    return decoder


@pytest.mark.parametrize("family", ["llama", "falcon", "qwen2", "gpt_neox"])
def test_tokens_are_those_of_a_plain_step_whatever_joins_and_leaves(family, folder, monkeypatch):
    model = make_model(folder, family)
    decoder, made = repeating(model), []
    make = graphs.Step.__init__
    monkeypatch.setattr(
        graphs.Step, "__init__", lambda step, *args: (made.append(step), make(step, *args))[1]
    )
    asked = []
    for n in range(3):
        prompt = encoded(model, Turn(f"{QUESTION} {n * 'Why? '}", None, 1))
        asked.append((prompt, make_queries(1, seed=n), Generation(9 * n + 70)))
    streams = [decoder.submit(prompt, queries, generation, STOP) for prompt, queries, generation in asked]
    for stream, (prompt, queries, generation) in zip(streams, asked, strict=True):
        ids, text = alone(model, prompt, queries, generation)
        assert (stream.result(), stream.ids) == (text, ids)
    passes = max(len(stream.ids) for stream in streams)
    assert 1 <= len(made) < passes, "a step serves until rows or columns change"


def test_a_conversations_cache_goes_on_after_recorded_steps_and_no_step_keeps_it(folder):
    model = make_model(folder)
    decoder = repeating(model)
    kept, prompt, queries = decoder.keep(), encoded(model, Turn(QUESTION, None, 1)), make_queries(1)
    first = decoder.submit(prompt, queries, Generation(30), STOP, kept)
    text = first.result()
    decoder.run(lambda: None)  # the thread has put the cache back
    assert decoder._repeated is None
    longer = encoded(model, Turn(QUESTION, text, 1), Turn("Why?", None, 0))
    second = decoder.submit(longer, queries, Generation(30), STOP, kept)
    assert second.result() == alone(model, longer, queries, Generation(30))[1]
    assert second.timing.num_read_tokens < len(longer.input_ids) - len(prompt.input_ids) + 1


def test_what_cannot_be_recorded_goes_on_without_and_says_so(folder, monkeypatch):
    model = make_model(folder)
    decoder, prompt, queries = repeating(model), encoded(model, Turn(QUESTION, None, 1)), make_queries(1)

    def fail(step):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs.Step, "_run", fail)
    told = []
    monkeypatch.setattr("skingpt4.generation.decoder.warnings.warn", lambda text, **_: told.append(text))
    stream = decoder.submit(prompt, queries, Generation(30), STOP)
    assert stream.result() == alone(model, prompt, queries, Generation(30))[1]
    assert not decoder.repeats
    assert ["cuda_graphs" in text for text in told] == [True]


def test_a_cpu_has_nothing_to_record(folder):
    assert not graphs.can_repeat(make_model(folder).language_model)
