"""Answers that a server writes: the same as this program's own, whoever asks beside; one sentence where it fails."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from skingpt4.chat.session import ChatSession, ContextFull
from skingpt4.config.schema import EngineConfig, LoraConfig
from skingpt4.generation.decoder import Decoder
from skingpt4.generation.engine.client import EngineError
from skingpt4.generation.engine.decoder import EngineDecoder, decoder_of, require_engine
from skingpt4.generation.engine.wire import served_model, tokens_of
from skingpt4.generation.sampling import Generation
from skingpt4.generation.scoring import score_answers, score_tree
from skingpt4.model import lora
from skingpt4.support.remote.address import RemoteAddressError
from skingpt4.support.remote.http import RemoteError
from tests.support.engine import NAME, StandInEngine, serving
from tests.support.tiny import conversation, make_model, make_queries, tiny_config

SHORT = Generation(max_new_tokens=12)
NAMES = ("psoriasis", "plaque", "scale", "a")
SENTENCES = [f"This could be a skin disease image of {name}." for name in NAMES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def model(folder):
    return make_model(folder)


@pytest.fixture
def engine(model):
    return StandInEngine(model.language_model)


def ask(decoder, model, question="What is it?", seed=0, generation=SHORT, **more):
    return decoder.submit(conversation(model, question), make_queries(1, seed), generation, ("###",), **more)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_greedy_tokens_are_those_of_the_own_decoder(folder, family):
    model = make_model(folder, family)
    with serving(StandInEngine(model.language_model)) as config:
        there, here = decoder_of(model, config), Decoder.of(model)
        for seed in range(3):
            generation = Generation(max_new_tokens=30)
            a, b = (ask(d, model, seed=seed, generation=generation) for d in (there, here))
            assert "".join(a) == a.result() == b.result()
            assert a.ids == b.ids
            assert a.timing.num_tokens == b.timing.num_tokens > 0
            assert 0 < a.timing.seconds_to_first_token <= a.timing.seconds


def test_what_is_sent_is_the_embedded_prompt_and_nothing_in_words(model, engine):
    with serving(engine) as config:
        answer = ask(decoder_of(model, config), model, "Is it SECRET?")
        answer.result()
    headers, body, embeds = engine.requests[-1]
    prompt = conversation(model, "Is it SECRET?")
    assert torch.equal(embeds, model.embed(torch.tensor([prompt.input_ids]), make_queries(1))[0])
    assert "SECRET" not in str(body)
    assert body["prompt"] == []
    assert body["stop"] == ["###"]
    assert body["stop_token_ids"] == [model.tokenizer.eos_token_id]
    assert body["cache_salt"] == headers["X-Session-Id"]


def test_drawn_answers_repeat_by_their_seed(model, engine):
    drawn = [Generation(12, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    with serving(engine) as config:
        first, again, other = (ask(decoder_of(model, config), model, generation=g).result() for g in drawn)
    assert first == again != other
    assert [body["seed"] for _, body, _ in engine.requests] == [1, 1, 2]
    assert engine.requests[0][1]["top_k"] == 50


def test_beams_are_searched_in_process(model, engine):
    beams = Generation(8, num_beams=2)
    with serving(engine) as config:
        there = ask(decoder_of(model, config), model, generation=beams).result()
    assert engine.requests == []
    assert there == ask(Decoder.of(model), model, generation=beams).result()


def test_a_session_of_several_turns_is_one_conversation_for_the_engine(folder, engine):
    config = tiny_config(folder)
    model = make_model(folder)
    with serving(StandInEngine(model.language_model)) as place:
        engine_of = replace(config, engine=place)
        sessions = [ChatSession(model, c) for c in (engine_of, config)]
        for session in sessions:
            session.queries, session.waiting = [make_queries(1, 3)], 1
        for question in ("What is it?", "And why?", "What now?", "Is it bad?"):
            answers = [session.ask(question, SHORT) for session in sessions]
            assert answers[0] == answers[1]
        assert isinstance(sessions[0].decoder, EngineDecoder)


def test_a_conversation_ends_where_the_engine_does(folder):
    config, model = tiny_config(folder), make_model(folder)
    engine = StandInEngine(model.language_model)
    engine.max_model_len = 90
    with serving(engine) as place:
        session = ChatSession(model, replace(config, engine=place))
        assert session.context().limit == 512
        require_engine(model, place)
        assert session.context().limit == 90
        assert session.ask("What is it?", SHORT)
        with pytest.raises(ContextFull, match="exceeds the model's 90"):
            session.ask("Why is it there, and what is to be done about it now? " * 2, SHORT)


def test_32_users_at_once_get_their_own_complete_answers(folder):
    """Each of them is compared with what the own decoder gives that user alone."""
    config, model = tiny_config(folder), make_model(folder)
    engine, brief = StandInEngine(model.language_model), Generation(max_new_tokens=6)

    def consult(user, settings):
        session = ChatSession(model, settings)
        session.queries, session.waiting = [make_queries(1, user)], 1
        return [session.ask(q, brief) for q in (f"What is {user}?", "And why?")]

    with serving(engine) as place, ThreadPoolExecutor(32) as pool:
        engine_of = replace(config, engine=place)
        there = list(pool.map(lambda user: consult(user, engine_of), range(32)))
    assert there == [consult(user, config) for user in range(32)]
    assert len({tuple(answers) for answers in there}) > 16, "the users' answers differ"
    assert engine.max_open > 8
    conversations = [headers["X-Session-Id"] for headers, _, _ in engine.requests]
    assert sorted(map(conversations.count, set(conversations))) == [2] * 32


def test_a_killed_engine_gives_each_user_a_sentence_and_comes_back(model):
    engine = StandInEngine(model.language_model, seconds_a_token=0.05)
    long = Generation(max_new_tokens=200)
    with serving(engine, retries=1) as config:
        port = int(config.url.rpartition(":")[2].partition("/")[0])
        decoder = decoder_of(model, config)
        answers = [ask(decoder, model, seed=seed, generation=long) for seed in range(8)]
        while engine.num_open < 8 or any(not answer.ids for answer in answers):
            time.sleep(0.01)
        engine.die()
        for answer in answers:
            with pytest.raises(RemoteError, match=r"the engine at 127.0.0.1 .*; ask again"):
                answer.result()
    with pytest.raises(RemoteError, match="cannot be reached"):  # it is not there
        ask(decoder, model).result()
    waiting = []

    patient = decoder_of(model, replace(config, retries=5))
    thread = threading.Thread(target=lambda: waiting.append(ask(patient, model).result()))
    thread.start()
    time.sleep(0.3)
    with serving(StandInEngine(model.language_model), port):
        thread.join(20)
        assert waiting == [ask(Decoder.of(model), model).result()]
        assert ask(decoder_of(model, config), model).result() == waiting[0]


def test_a_listener_that_leaves_ends_the_work_at_the_engine(model):
    engine = StandInEngine(model.language_model, seconds_a_token=0.05)
    with serving(engine) as config:
        decoder = decoder_of(model, config)
        stopped = threading.Event()
        answer = ask(decoder, model, generation=Generation(max_new_tokens=400), stopped=stopped)
        while len(answer.ids) < 3:
            time.sleep(0.01)
        stopped.set()
        began = time.monotonic()
        text = answer.result()
        assert time.monotonic() - began < 2
        assert 3 <= len(answer.ids) < 400
        assert text == model.tokenizer.decode(answer.ids).strip()
        while engine.num_open:
            time.sleep(0.01)
        assert engine.cancelled == 1
        engine.mode = "hanging"  # nothing has come yet, and nobody waits any more
        answer = ask(decoder, model)
        time.sleep(0.2)
        answer.stop()
        began = time.monotonic()
        assert answer.result() == ""
        assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        ("busy", "answers with the failure HTTP 503: overloaded"),
        ("no_ids", "gives no token ids"),
        ("failing", "reports a failure in its answer: EngineCore died"),
        ("html", "does not stream its answers"),
        ("hanging", r"did not answer within 0.5 seconds \(engine.timeout_seconds\)"),
    ],
)
def test_an_engine_that_misbehaves_is_one_sentence(model, engine, mode, sentence):
    engine.mode = mode
    with (
        serving(engine, timeout_seconds=0.5, retries=1) as config,
        pytest.raises(RemoteError, match=sentence),
    ):
        ask(decoder_of(model, config), model).result()


@pytest.mark.parametrize("ids", [None, "12", [1.5], [True], [-1], [2**40], [[1]], {"0": 1}])
def test_what_is_no_token_is_one_sentence(ids):
    with pytest.raises(EngineError, match="gives no token ids"):
        tokens_of({"choices": [{"token_ids": ids}]}, "http://engine")


def test_the_engines_own_words_move_no_cursor():
    with pytest.raises(EngineError) as failure:
        tokens_of({"error": {"message": "died\x1b[2J\nagain"}}, "http://engine")
    assert str(failure.value).isprintable()
    with pytest.raises(EngineError) as other:
        served_model({"data": [{"id": "a\x1b[2J"}, {"id": "b"}]}, "x", "http://engine")
    assert str(other.value).isprintable()


def test_a_failure_before_the_answer_begins_is_repeated(model, engine):
    engine.mode, engine.num_bad = "busy", 2
    with serving(engine) as config:
        assert ask(decoder_of(model, config), model).result() == ask(Decoder.of(model), model).result()
    assert len(engine.requests) == 3


def test_a_prompt_that_is_too_large_is_not_sent(model, engine):
    with serving(engine) as config:
        decoder = decoder_of(model, config)
        decoder.config = replace(config, max_prompt_mb=1)
        with pytest.raises(EngineError, match=r"takes \d+\.\d MB .* engine.max_prompt_mb is 1"):
            ask(decoder, model, "why " * 9000)
    assert engine.requests == []


class TestBeforeTheFirstQuestion:
    def test_the_engine_is_asked_for_its_model_and_a_few_tokens(self, model, engine, caplog):
        with serving(engine) as config, caplog.at_level("INFO"):
            require_engine(model, config)
        assert NAME in caplog.text
        require_engine(model, EngineConfig())  # in process

    def test_another_language_model_is_refused(self, folder, model):
        other = make_model(folder / "other")
        with torch.no_grad():
            other.language_model.model.lm_head.weight.mul_(1.3)
        with (
            serving(StandInEngine(other.language_model)) as config,
            pytest.raises(EngineError, match="serves another language model"),
        ):
            require_engine(model, config)

    def test_lora_that_was_not_merged_is_refused(self, folder, model):
        tuned = make_model(folder)
        lora.add(tuned.language_model, LoraConfig(rank=2), 0)
        with torch.no_grad():
            for name, tensor in lora.trainable(tuned.language_model).items():
                tensor.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(name)))
        with (
            serving(StandInEngine(model.language_model)) as config,
            pytest.raises(EngineError, match="export"),
        ):
            require_engine(tuned, config)
        assert lora.merge(tuned.language_model)
        with serving(StandInEngine(tuned.language_model)) as config:
            require_engine(tuned, config)

    def test_another_name_is_refused(self, model, engine):
        with serving(engine, model="x") as config, pytest.raises(EngineError, match=f"serves {NAME}"):
            require_engine(model, config)

    def test_a_key_is_sent_and_a_missing_one_is_named(self, model, monkeypatch):
        monkeypatch.setenv("ENGINE_KEY", "k3y")
        engine = StandInEngine(model.language_model, key="k3y")
        with serving(engine) as config:
            with pytest.raises(RemoteError, match=r"wants a key; .* with engine.key_env"):
                require_engine(model, config)
            require_engine(model, replace(config, key_env="ENGINE_KEY"))
        with pytest.raises(RemoteAddressError, match="NO_KEY holds no key"):
            require_engine(model, replace(config, key_env="NO_KEY"))

    def test_nothing_is_there(self, model):
        config = EngineConfig("vllm", "http://127.0.0.1:9/v1", retries=0)
        with pytest.raises(RemoteError, match="cannot be reached"):
            require_engine(model, config)


@pytest.mark.parametrize(
    ("url", "key", "lacks"),
    [
        ("http://192.0.2.1:8001/v1", None, "needs encryption (https) and a key (engine.key_env)"),
        ("http://192.0.2.1:8001/v1", "k", "needs encryption (https), or"),
        ("https://engine.example/v1", None, "needs a key (engine.key_env), or"),
        ("https://engine.example/v1", "k", None),
        ("http://[::1]:8001/v1", None, None),
        ("http://localhost:8001/v1", None, None),
    ],
)
def test_another_machine_needs_encryption_and_a_key(model, monkeypatch, url, key, lacks):
    monkeypatch.setenv("ENGINE_KEY", key or "")
    config = EngineConfig("vllm", url, key_env="ENGINE_KEY" if key else None)
    if lacks is None:
        decoder_of(model, config)
        return
    with pytest.raises(EngineError) as refused:
        decoder_of(model, config)
    assert lacks in str(refused.value)
    assert "engine.allow_insecure: true" in str(refused.value)
    decoder_of(model, replace(config, allow_insecure=True))


def test_rules_that_the_engine_cannot_follow_are_refused(folder, monkeypatch):
    model = make_model(folder / "rules")
    monkeypatch.setattr(model.language_model.generation_config, "no_repeat_ngram_size", 3)
    with pytest.raises(EngineError, match="generation_config"):
        decoder_of(model, EngineConfig("vllm"))


class TestClosedSets:
    def scores(self, model, score):
        prompts = [conversation(model, "What is it?") for _ in range(2)]
        return Decoder.of(model).run(lambda: score(model, prompts, make_queries(2), SENTENCES))

    @pytest.mark.parametrize("score", [score_answers, score_tree])
    def test_an_engine_computes_the_same_likelihoods(self, folder, score):
        model = make_model(folder)
        expected = self.scores(model, score)
        engine = StandInEngine(model.language_model)
        with serving(engine, closed_sets="engine") as config:
            decoder_of(model, config)
            assert torch.allclose(self.scores(model, score), expected, atol=1e-4)
            assert len(engine.requests) > 4
            assert all("SECRET" not in str(body) for _, body, _ in engine.requests)
            assert len({headers["X-Session-Id"] for headers, _, _ in engine.requests}) >= 2
            engine.mode = "no_named"
            with pytest.raises(EngineError, match=r"set engine\.closed_sets: in_process"):
                self.scores(model, score)

    def test_in_process_is_the_default(self, folder):
        model = make_model(folder)
        engine = StandInEngine(model.language_model)
        with serving(engine) as config:
            decoder_of(model, config)
            self.scores(model, score_answers)
        assert engine.requests == []

    def test_more_tokens_than_one_request_takes(self, folder):
        model = make_model(folder)
        ids = conversation(model, "What is it?", num_images=0).input_ids
        embeds, tokens = model.embed(torch.tensor([ids]), None)[0].detach(), list(range(3, 170))
        with serving(StandInEngine(model.language_model)) as config:
            (found,) = decoder_of(model, config).log_probabilities([(embeds, tokens)])
        with torch.no_grad():
            expected = model.language_model.logits(embeds[None])[0, -1].log_softmax(-1)[tokens]
        assert torch.allclose(torch.tensor(found), expected, atol=1e-5)
