"""Answers decoded together equal those of each alone, with a cache or without, whatever joins, leaves or fails."""

import gc
import random
import threading
import time
import weakref
from concurrent.futures import Future

import pytest
import torch
from transformers import AutoConfig

from skingpt4.chat.session import ChatSession
from skingpt4.generation import decoder as decoding
from skingpt4.generation.answer import safe_text
from skingpt4.generation.batch import can_cache
from skingpt4.generation.cache import KVCache
from skingpt4.generation.decoder import Decoder
from skingpt4.generation.sampling import ChatError, Generation, Lookup, knows_rules
from skingpt4.model.prompts import Turn, encode_turns, get_template
from tests.support.tiny import (
    NUM_QUERIES,
    make_model,
    make_queries,
    tiny_config,
)

STOP = ("###",)
QUESTION = "What is wrong with my skin?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("decoding")


def encoded(model, *turns):
    return encode_turns(get_template("vicuna"), turns, model.tokenizer, NUM_QUERIES)


def alone(model, prompt, queries, generation, stop=STOP):
    """The token ids and the text that `SkinGPT4.generate` gives for one prompt."""
    seen, generate = [], model.language_model.generate

    def record(*args, **options):
        seen.append(generate(*args, **options))
        return seen[-1]

    model.language_model.generate = record
    try:
        with torch.random.fork_rng():
            torch.manual_seed(generation.seed)
            text = model.generate([prompt], queries, stop, **generation.options())[0]
    finally:
        del model.language_model.generate
    return seen[0][0].tolist(), text


def requests(model, count, rng, greedy=True):
    """Prompts of different lengths, with images and without, and different lengths of answers."""
    made = []
    for number in range(count):
        num_images = rng.randrange(3)
        question = " ".join(["Why is it so red, please?"] * rng.randrange(1, 5))
        prompt = encoded(model, Turn(question, None, num_images))
        queries = make_queries(num_images, seed=number) if num_images else None
        generation = Generation(rng.randrange(1, 25), seed=number)
        if not greedy:
            drawn = {"temperature": rng.choice([0.7, 1.0, 2.0]), "top_p": 0.95, "top_k": rng.choice([0, 40])}
            generation = Generation(rng.randrange(5, 25), seed=number, **drawn)
        made.append((prompt, queries, generation))
    return made


@pytest.mark.parametrize("family", ["llama", "falcon", "mistral", "gemma2", "qwen2", "gpt_neox"])
def test_rows_that_join_and_leave_at_any_token_answer_as_each_does_alone(family, folder):
    model, rng = make_model(folder, family), random.Random(family)
    decoder = Decoder(model, max_rows=4, prefill_tokens=23)
    asked = requests(model, 9, rng)
    answers = []
    for prompt, queries, generation in asked:
        answers.append(decoder.submit(prompt, queries, generation, STOP, decoder.new_cache()))
        time.sleep(rng.choice([0.0, 0.0, 0.02]))
    for answer, request in zip(answers, asked, strict=True):
        ids, text = alone(model, *request)
        assert "".join(answer) == answer.result() == text
        assert answer.ids == ids
    assert max(answer.timing.num_rows for answer in answers) > 1
    assert len({tuple(answer.ids) for answer in answers}) > 4


def test_a_drawn_answer_depends_on_its_seed_alone(folder):
    model, rng = make_model(folder), random.Random(0)
    decoder = Decoder(model, max_rows=3, prefill_tokens=10)
    asked = requests(model, 6, rng, greedy=False)
    state = torch.get_rng_state()
    answers = [decoder.submit(*request, STOP) for request in asked]
    texts = [answer.result() for answer in answers]
    assert torch.equal(torch.get_rng_state(), state)
    assert texts == [alone(model, *request)[1] for request in asked]


def test_a_models_own_rules_hold(folder):
    model = make_model(folder)
    rules = model.language_model.generation_config
    rules.repetition_penalty, rules.no_repeat_ngram_size = 1.3, 2
    prompt, generation = encoded(model, Turn(QUESTION)), Generation(20)
    decoder = Decoder(model)
    assert not decoder.uses_generate
    first = decoder.submit(prompt, None, generation, STOP)
    assert first.result() == alone(model, prompt, None, generation)[1]
    rules.suppress_tokens = [first.ids[0]]
    assert not knows_rules(rules)
    other = Decoder(model)
    assert other.uses_generate  # `generate` knows them all
    answer = other.submit(prompt, None, generation, STOP)
    assert "".join(answer) == alone(model, prompt, None, generation)[1]
    assert answer.ids[0] != first.ids[0]


@pytest.mark.parametrize("family", ["llama", "falcon", "mistral", "gemma2", "qwen2"])
def test_a_cached_conversation_changes_only_how_much_is_read(family, folder):
    """Also where windows slide: the mask applies the window, so the cache can be truncated."""
    model = make_model(folder, family)
    decoder, queries = Decoder(model), make_queries(1)
    cache, turns, read = decoder.new_cache(), [], []
    for number in range(4):
        prompt = encoded(model, *turns, Turn(f"{QUESTION} {number}", None, 0 if number else 1))
        answer = decoder.submit(prompt, queries, Generation(12), STOP, cache)
        ids, text = alone(model, prompt, queries, Generation(12))
        assert answer.result() == text
        assert answer.ids == ids
        read.append((answer.timing.num_read_tokens, len(prompt.input_ids)))
        turns.append(Turn(f"{QUESTION} {number}", text, 0 if number else 1))
    assert read[0][0] == read[0][1]
    first = len(encoded(model, Turn(f"{QUESTION} 0", None, 1)).input_ids)
    assert all(num_read <= num_tokens - first for num_read, num_tokens in read[1:])
    assert cache.keys[:first][-1] > 0 > min(cache.keys)


def test_another_image_is_read_again(folder):
    model = make_model(folder)
    decoder, prompt = Decoder(model), encoded(model, Turn(QUESTION, None, 1))
    cache, places = decoder.new_cache(), len(encoded(model, Turn(QUESTION, None, 1)).input_ids)
    first = next(i for i, token in enumerate(prompt.input_ids) if token < 0)
    read = []
    for seed in (1, 1, 2):
        answer = decoder.submit(prompt, make_queries(1, seed), Generation(8), STOP, cache)
        assert answer.result() == alone(model, prompt, make_queries(1, seed), Generation(8))[1]
        read.append(answer.timing.num_read_tokens)
    assert read == [places, 1, places - first]
    with torch.no_grad():
        model.projection.weight.mul_(1.5)  # and so is the same image through another projection
    answer = decoder.submit(prompt, make_queries(1, 2), Generation(8), STOP, cache)
    answer.result()
    assert answer.timing.num_read_tokens == places - first


@pytest.mark.parametrize(
    ("name", "holds", "args"),
    [
        ("llama", True, {}),
        ("falcon", True, {}),
        ("qwen3", True, {}),
        ("mistral", True, {"sliding_window": 8}),
        ("gemma3_text", True, {"sliding_window": 8}),
        ("mamba", False, {}),
        ("qwen3_next", False, {}),
        ("lfm2", False, {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]}),
        ("llama4_text", False, {}),
    ],
)
def test_which_families_can_be_cached(name, holds, args):
    assert can_cache(AutoConfig.for_model(name, **args)) is holds


def test_a_family_with_recurrent_state_reads_everything_again_and_streams(folder, monkeypatch):
    monkeypatch.setattr("skingpt4.generation.decoder.can_cache", lambda config: False)
    model = make_model(folder)
    decoder = Decoder(model)
    cache, prompt = decoder.new_cache(), encoded(model, Turn(QUESTION))
    for generation in (Generation(15), Generation(15, temperature=2.0, seed=3)):
        ids, text = alone(model, prompt, None, generation)
        answer = decoder.submit(prompt, None, generation, STOP, cache)
        assert "".join(answer) == text
        assert answer.ids == ids
        assert answer.timing.num_read_tokens == len(prompt.input_ids)
    assert cache.kv is None


def test_caches_are_dropped_when_idle_closed_forgotten_or_too_large(folder):
    model = make_model(folder)
    decoder = Decoder(model)
    prompt = encoded(model, Turn(QUESTION))
    one = decoder.new_cache()
    decoder.submit(prompt, None, Generation(4), STOP, one).result()
    size = decoder.cached_bytes
    assert size == one.kv.num_bytes > 0
    decoder.caches.max_idle_seconds = 0.0
    decoder.run(lambda: None)  # wakes the thread
    wait_until(lambda: decoder.cached_bytes == 0)
    wait_until(lambda: decoder._thread is None)

    decoder = Decoder(model, max_cached_bytes=2 * size)
    many = [decoder.new_cache() for _ in range(3)]
    for cache in (many[0], many[1], many[0], many[2]):
        decoder.submit(prompt, None, Generation(4), STOP, cache).result()
        wait_until(lambda cache=cache: cache.kv is not None)
    assert [cache.kv is None for cache in many] == [False, True, False]  # the one unused for longest
    many[0].close()
    assert decoder.cached_bytes == size
    decoder.submit(prompt, None, Generation(4), STOP, many[0]).result()
    assert many[0].kv is None  # closed for good
    del many, cache
    gc.collect()
    assert decoder.cached_bytes == 0


def test_a_model_is_freed_with_its_sessions(folder):
    config = tiny_config(folder)
    session = ChatSession(make_model(folder), config)
    session.ask(QUESTION, Generation(2))
    model = weakref.ref(session.model)
    del session
    wait_until(lambda: gc.collect() >= 0 and model() is None)


class Calls:
    """Records (rows, tokens) of each pass; some may fail."""

    def __init__(self, model, fails=lambda rows, tokens: None):
        self.model, self.forward, self.fails, self.seen = model, model.language_model.forward, fails, []

    def __enter__(self):
        self.model.language_model.forward = self
        return self

    def __exit__(self, *args):
        self.model.language_model.forward = self.forward

    def __call__(self, *args, **inputs):
        shape = (inputs["input_ids"] if "input_ids" in inputs else inputs["inputs_embeds"]).shape
        self.seen.append((shape[0], shape[1]))
        out = self.forward(*args, **inputs)
        error = self.fails(*self.seen[-1])
        if error is not None:  # after the cache was written
            raise error
        return out


def test_a_long_prompt_does_not_hold_the_others_up(folder):
    model = make_model(folder)
    decoder = Decoder(model, prefill_tokens=16)
    prompt, long = encoded(model, Turn(QUESTION)), encoded(model, Turn(" ".join([QUESTION] * 9)))
    with Calls(model) as calls:
        first = decoder.submit(prompt, None, Generation(60), ())
        wait_until(lambda: len(first.ids) > 2)
        second = decoder.submit(long, None, Generation(5), ())
        second.result()
        first.result()
    begun = next(i for i, shape in enumerate(calls.seen) if i and shape[1] > 1)
    parts = calls.seen[begun : begun + 2 * (len(long.input_ids) // 16)]
    assert parts == [(1, 16), (1, 1)] * (len(parts) // 2)
    assert len(parts) > 8
    assert first.result() == alone(model, prompt, None, Generation(60), ())[1]


def test_beams_do_not_hold_the_others_up(folder):
    model = make_model(folder)
    decoder = Decoder(model)
    prompt, beams = encoded(model, Turn(QUESTION)), Generation(100, num_beams=3)
    expected = [alone(model, prompt, None, generation, ())[1] for generation in (beams, Generation(20))]
    first, second = [decoder.submit(prompt, None, beams, ()) for _ in range(2)]
    others = [decoder.submit(prompt, None, Generation(20), ()) for _ in range(2)]
    assert [answer.result() for answer in others] == [expected[1]] * 2
    assert decoder.run(lambda: "done") == "done"
    left = decoder.submit(prompt, None, beams, ())
    left.stop()
    left.result()
    assert first.timing is second.timing is None
    assert decoder.is_busy
    assert [first.result(), second.result()] == [expected[0]] * 2


def test_stopped_beams_end_and_let_the_next_begin(folder):
    model = make_model(folder)
    decoder = Decoder(model)
    prompt, beams = encoded(model, Turn(QUESTION)), Generation(400, num_beams=3)
    answers = [decoder.submit(prompt, None, beams, ()) for _ in range(3)]
    for answer in answers:
        answer.stop()
        answer.result()
    wait_until(lambda: not decoder.is_busy)


def test_beams_that_fail_let_the_next_begin(folder, monkeypatch):
    model = make_model(folder)
    decoder = Decoder(model)
    prompt, beams = encoded(model, Turn(QUESTION)), Generation(10, num_beams=3)
    expected = alone(model, prompt, None, beams, ())[1]
    generate, others = model.language_model.generate, []

    def fail_once(*args, **options):
        model.language_model.generate = generate
        others.append(decoder.submit(prompt, None, beams, ()))
        raise ZeroDivisionError

    monkeypatch.setattr(model.language_model, "generate", fail_once)
    with pytest.raises(ZeroDivisionError):
        decoder.submit(prompt, None, beams, ()).result()
    assert others[0].result() == expected


def test_jobs_take_turns_with_tokens(folder):
    """A stream of images to encode does not keep answers from going on."""
    model = make_model(folder)
    decoder = Decoder(model)
    answer = decoder.submit(encoded(model, Turn(QUESTION)), None, Generation(40), ())
    wait_until(lambda: len(answer.ids) > 2)
    counts = []

    def job():
        counts.append(len(answer.ids))
        if len(counts) < 10:
            threading.Thread(target=decoder.run, args=(job,)).start()
            time.sleep(0.05)  # the next one is there before this one ends

    decoder.run(job)
    answer.result()
    wait_until(lambda: len(counts) == 10)
    assert counts == sorted(set(counts))


def test_out_of_memory_reaches_who_caused_it_alone(folder):
    model = make_model(folder)
    decoder = Decoder(model)
    prompt, long = encoded(model, Turn(QUESTION)), encoded(model, Turn(" ".join([QUESTION] * 6)))

    def full(rows, tokens):
        return torch.OutOfMemoryError("no memory") if rows > 1 or tokens > len(prompt.input_ids) else None

    expected = alone(model, prompt, None, Generation(40), ())[1]
    with Calls(model, full):
        running = decoder.submit(prompt, None, Generation(40), (), decoder.new_cache())
        wait_until(lambda: len(running.ids) > 2)
        for newcomer in (prompt, long):  # the one fails when it joins, the other when it is read
            answer = decoder.submit(newcomer, None, Generation(40), ())
            with pytest.raises(torch.OutOfMemoryError):
                answer.result()
            assert isinstance(answer.error, torch.OutOfMemoryError)
        assert running.result() == expected
    assert decoder.submit(prompt, None, Generation(40), ()).result() == expected


def test_cached_conversations_are_dropped_before_an_answer_fails_for_lack_of_memory(folder):
    model = make_model(folder)
    decoder = Decoder(model)
    prompt, cache = encoded(model, Turn(QUESTION)), decoder.new_cache()
    decoder.submit(prompt, None, Generation(4), (), cache).result()
    wait_until(lambda: cache.kv is not None)

    def full(rows, tokens):
        return torch.OutOfMemoryError("no memory") if tokens == 1 and cache.kv is not None else None

    with Calls(model, full):
        answer = decoder.submit(prompt, None, Generation(10), ()).result()
    assert answer == alone(model, prompt, None, Generation(10), ())[1]
    assert cache.kv is None


def test_a_bug_in_the_decoder_reaches_everyone_and_the_next_answer_is_complete(folder, monkeypatch):
    model = make_model(folder)
    decoder, prompt = Decoder(model), encoded(model, Turn(QUESTION))
    with monkeypatch.context() as patch:
        patch.setattr(decoder.batch, "step", lambda model: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            decoder.submit(prompt, None, Generation(5)).result()
    assert (
        decoder.submit(prompt, None, Generation(5)).result()
        == alone(model, prompt, None, Generation(5), ())[1]
    )


def test_other_work_is_done_by_the_same_thread_between_two_tokens(folder):
    model = make_model(folder)
    decoder, done_at, passes = Decoder(model), Future(), []

    def ask(*_):  # as another thread would, while the third token is on its way
        passes.append(1)
        if len(passes) == 3:
            decoder._jobs.append((done_at, lambda: (threading.current_thread().name, len(passes))))

    with_hook = model.language_model.register_forward_hook(ask)
    answer = decoder.submit(encoded(model, Turn(QUESTION, None, 1)), make_queries(1), Generation(20))
    answer.result()
    with_hook.remove()
    assert len(answer.ids) > 5
    assert done_at.result() == ("decoder", 3)
    with pytest.raises(KeyError, match="lost"):
        decoder.run(lambda: {}["lost"])
    assert decoder.run(lambda: decoder.run(lambda: 7)) == 7, "work may ask for more work"


def test_closing_ends_the_thread_and_the_next_question_starts_it_again(folder):
    model = make_model(folder)
    decoder = Decoder(model)
    cache, prompt = decoder.new_cache(), encoded(model, Turn(QUESTION, None, 1))
    decoder.submit(prompt, make_queries(1), Generation(5), STOP, cache).result()
    thread = decoder._thread
    assert thread.is_alive(), "it keeps the conversation's cache"
    answer = decoder.submit(prompt, make_queries(1), Generation(2000), (), cache)
    decoding.close_all()
    assert not thread.is_alive()
    assert len(answer.ids) < 2000
    answer.result()
    decoder.submit(prompt, make_queries(1), Generation(5), STOP, cache).result()


def test_a_stopped_answer_leaves_the_others_alone_and_its_cache_serves_on(folder):
    model = make_model(folder)
    decoder, prompt = Decoder(model), encoded(model, Turn(QUESTION))
    cache = decoder.new_cache()
    other = decoder.submit(prompt, None, Generation(40), ())
    stopped = decoder.submit(prompt, None, Generation(400), (), cache)
    wait_until(lambda: len(stopped.ids) > 3)
    stopped.stop()
    stopped.result()
    ids = alone(model, prompt, None, Generation(40), ())[0]
    assert 3 < len(stopped.ids) < 400
    assert stopped.ids[:40] == ids[: len(stopped.ids)]
    assert other.result() == alone(model, prompt, None, Generation(40), ())[1]
    again = decoder.submit(prompt, None, Generation(40), (), cache)
    again.result()
    assert (again.ids, again.timing.num_read_tokens) == (ids, 1)


def test_wrong_settings_are_refused_at_once(folder):
    model = make_model(folder)
    with pytest.raises(ChatError, match="temperature must be at least 0"):
        Decoder(model).submit(encoded(model, Turn(QUESTION)), None, Generation(temperature=-1.0))


def test_rows_hold_what_was_written_through_joins_and_leaves():
    """The buffer alone, against plain lists, for random rows."""
    rng = random.Random(1)

    def write(rows, values):
        rows.reserve(1)
        rows.attention_mask(1)
        new = torch.tensor(values, dtype=torch.float).view(-1, 1, 1, 1)
        keys, _ = rows.update(new, -new, 0)
        rows.advance(1)
        return keys

    def own(values):
        rows = KVCache(rng.randrange(3))
        for value in values:
            write(rows, [value])
        return rows

    batch, expected = own([1.0]), [[1.0]]
    for step in range(400):
        kind = rng.random()
        if kind < 0.1 and len(expected) < 5:
            values = [rng.random() for _ in range(rng.choice([1, 5, 90]))]
            batch.join(own(values))
            expected.append(values)
        elif kind < 0.2 and len(expected) > 1:
            place = rng.randrange(len(expected))
            copy = batch.copy_row(place)
            assert copy.layers[0].keys[0, 0, : copy.lengths[0], 0].tolist() == pytest.approx(expected[place])
            batch.remove(place)
            expected[place] = expected[-1]
            expected.pop()
        else:
            new = [float(step + i) for i in range(len(expected))]
            keys = write(batch, new)
            for row, value in zip(expected, new, strict=True):
                row.append(value)
            mask = batch.attention_mask(0)
            mask = torch.ones(keys.shape[0], keys.shape[2], dtype=torch.bool) if mask is None else mask
            for row, have, real in zip(expected, keys[:, 0, :, 0], mask, strict=True):
                assert have[real].tolist() == pytest.approx(row)
                assert batch.get_seq_length() == max(map(len, expected))
    assert len(expected) > 1


def test_guesses_are_what_followed_the_same_tokens_before():
    assert Lookup([1, 2, 3, 4, 9, 1, 2, 3]).guess(2) == [4, 9]
    assert Lookup([7, 2, 3, 5, 1, 2, 3, 4, 9, 7, 2, 3]).guess(2) == [5, 1]  # three alike before two
    assert Lookup([1, 2, 3, -5, 9, 1, 2, 3]).guess(4) == []  # images are never guessed
    assert Lookup([8, 1, 2, 1, 2]).guess(5) == [1, 2, 1, 2, 1]  # a phrase that repeats itself goes on
    assert Lookup([1, 2, 3]).guess(5) == Lookup([]).guess(5) == []


@pytest.mark.parametrize("family", ["llama", "falcon", "mistral"])
def test_guessing_changes_nothing_but_the_number_of_passes(family, folder):
    model = make_model(folder, family)
    prompt = encoded(model, Turn(" ".join([QUESTION] * 3)))
    greedy, drawn = Generation(80), Generation(60, temperature=0.6, top_k=5, seed=2)
    for generation in (greedy, drawn):
        passes = []
        for max_guessed in (0, 8):
            decoder = Decoder(model, max_guessed=max_guessed)
            cache = decoder.new_cache()
            with Calls(model) as calls:
                answer = decoder.submit(prompt, None, generation, (), cache)
                answer.result()
            assert answer.ids == alone(model, prompt, None, generation, ())[0]
            wait_until(lambda cache=cache: cache.kv is not None)
            assert cache.keys == [*prompt.input_ids, *answer.ids[:-1]]
            assert cache.kv.lengths == [len(cache.keys)]
            passes.append(len(calls.seen))
        assert passes[0] == len(answer.ids)
        assert passes[1] <= passes[0]


def test_an_answer_that_repeats_itself_takes_few_passes(folder):
    model, passes = make_model(folder), []
    forward = model.language_model.forward

    def cycle(*args, **inputs):  # 20, 21, .. 24, 20, ..
        passes.append(1)
        out = forward(*args, **inputs)
        now = inputs["input_ids"] if "input_ids" in inputs else torch.tensor([[23]])
        out.logits = torch.nn.functional.one_hot((now - 19) % 5 + 20, out.logits.shape[-1]).float()
        return out

    model.language_model.forward = cycle
    answer = Decoder(model).submit(encoded(model, Turn(QUESTION)), None, Generation(101), ())
    answer.result()
    model.language_model.forward = forward
    assert answer.ids == [24, *([20, 21, 22, 23, 24] * 20)]
    assert len(passes) < 101 / 4


def test_text_is_held_back_while_it_may_become_a_stop():
    assert safe_text("It is acne. ##", ("###",)) == "It is acne."
    assert safe_text("It is acne.### more", ("###",)) == "It is acne."
    assert safe_text("1 is # or", ("###",)) == "1 is # or"


def wait_until(fact):
    end = time.monotonic() + 300
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.001)
