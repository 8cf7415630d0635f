"""Cases under way together: each says what it says alone, in whatever order they end."""

import time
from pathlib import Path

import pytest
import torch

from eval.asking.answers import Key
from eval.asking.cases import Case
from eval.asking.conversation import PROBES, Asker, Setting
from skingpt4.generation.questions import CLINICAL_PROMPTS
from skingpt4.generation.sampling import Generation
from skingpt4.model.prompts import Turn, encode_turns, get_template
from skingpt4.records.record import Record
from tests.support.tiny import (
    NUM_QUERIES,
    make_model,
    make_queries,
    tiny_config,
)

NUM_CASES = 7
ASKED = [("turn", 1), ("turn", 2), ("turn", 3), ("turn", 4), ("probe", 1), ("probe", 2)]
PICTURES = [make_queries(1, seed=number) for number in range(NUM_CASES)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("conversation")


@pytest.fixture(scope="module")
def model(folder):
    return make_model(folder)


def cases():
    return [Case(f"case-{n}", (Record(Path("p.png"), class_name="herpes"),), (n,)) for n in range(NUM_CASES)]


def asker_of(model, folder, batch_size, **drawn):
    generation = Generation(**{"max_new_tokens": 40, **drawn})
    config = tiny_config(folder)
    asker = Asker(
        model, config, Setting({"herpes": ("herpes",)}, CLINICAL_PROMPTS, generation, batch_size), "arm"
    )
    asker.stop = (*asker.stop, "e")  # answers of different lengths
    return asker


def answers(asker, done=None, asked=None):
    """Of a second repeat, which scores no closed set; the order of the keys is that of the answers."""
    asked = cases() if asked is None else asked
    places = {case.id: place for place, case in enumerate(cases())}

    def pictures(which):
        return [PICTURES[places[asked[place].id]] for place in which]

    return {a.key: a for a in asker.answers(asked, pictures, {} if done is None else done, repeat=1)}


def texts(found):
    return {key: answer.text for key, answer in found.items()}


def one_by_one(asker):
    """What `SkinGPT4.generate` says to each prompt alone, reading everything anew."""
    model, found = asker.model, {}
    template = get_template(asker.config.prompt.template)
    for case, queries in zip(cases(), PICTURES, strict=True):
        turns = []
        for kind, number in ASKED:
            question = CLINICAL_PROMPTS[number - 1] if kind == "turn" else PROBES[number - 1]
            before = turns if kind == "turn" else []
            talk = [*before, Turn(question, None, 0 if before else 1)]
            prompt = encode_turns(template, talk, model.tokenizer, NUM_QUERIES)
            text = model.generate([prompt], queries, asker.stop, **asker.setting.generation.options())[0]
            found[Key(case.id, 1, None, kind, number)] = text
            if kind == "turn":
                turns.append(Turn(question, text, 0 if before else 1))
    return found


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_cases_of_different_lengths_end_out_of_order_and_say_what_each_says_alone(model, folder, batch_size):
    asker = asker_of(model, folder, batch_size)
    found = answers(asker)
    assert texts(found) == one_by_one(asker)
    assert len({answer.fields["num_tokens"] for answer in found.values()}) > 3
    for case in cases():
        assert [(key.kind, key.number) for key in found if key.case_id == case.id] == ASKED
    said = {tuple(a.text for key, a in found.items() if key.case_id == case.id) for case in cases()}
    assert len(said) == NUM_CASES  # so a case that saw another's picture or answers would show
    last = [key.case_id for key in found if (key.kind, key.number) == ASKED[-1]]
    assert last == sorted(last) or batch_size > 1
    assert asker.decoder.cached_bytes == 0
    for answer in found.values():
        assert 0 < answer.fields["seconds_to_first_token"] <= answer.fields["seconds"]
        assert answer.fields["num_decoded_together"] <= batch_size
    most = max(answer.fields["num_decoded_together"] for answer in found.values())
    assert most == 1 if batch_size == 1 else most > 1


def test_an_answer_s_clock_starts_with_its_own_submission(model, folder):
    """The seconds of a case's answers fit into the time that the run took, though other cases ran beside it."""
    began = time.perf_counter()
    found = answers(asker_of(model, folder, 3))
    took = time.perf_counter() - began
    for case in cases():
        assert sum(a.fields["seconds"] for key, a in found.items() if key.case_id == case.id) < took + 0.01
    assert len({answer.fields["seconds"] for answer in found.values()}) > NUM_CASES


def test_a_drawn_answer_depends_on_its_case_and_seed_alone(model, folder):
    state = torch.get_rng_state()
    many = answers(asker_of(model, folder, 4, temperature=1.0))
    assert torch.equal(torch.get_rng_state(), state)
    fewer = answers(asker_of(model, folder, 1, temperature=1.0), asked=cases()[:0:-2])
    assert len(fewer) == 3 * len(ASKED)
    assert all(many[key].fields["seed"] == answer.fields["seed"] for key, answer in fewer.items())
    assert all(many[key].text == answer.text for key, answer in fewer.items())
    assert len({answer.fields["seed"] for answer in many.values()}) == len(many)
    other = answers(asker_of(model, folder, 4, temperature=1.0, seed=1))
    assert texts(other) != texts(many)


@pytest.mark.parametrize("stop_after", [1, 9, 25])
def test_a_run_left_in_the_middle_goes_on_with_what_is_missing(model, folder, stop_after):
    whole = texts(answers(asker_of(model, folder, 3)))
    asker, done = asker_of(model, folder, 3), {}
    begun = asker.answers(cases(), lambda which: [PICTURES[place] for place in which], done, repeat=1)
    written = [next(begun) for _ in range(stop_after)]
    begun.close()
    deadline = time.monotonic() + 300
    while asker.decoder.is_busy and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not asker.decoder.is_busy  # what nobody waits for is not decoded to its end
    assert asker.decoder.cached_bytes == 0
    before = {answer.key: answer for answer in written}
    rest = answers(asker_of(model, folder, 3), dict(before))
    assert not before.keys() & rest.keys()
    assert texts(before) | texts(rest) == whole


def test_a_failing_answer_ends_the_others_and_says_why(model, folder, monkeypatch):
    asker = asker_of(model, folder, 3)
    submit, count = asker.decoder.submit, []

    def failing(prompt, queries, *rest, **options):
        count.append(1)
        # One picture too many: the decoder's thread finds out.
        return submit(prompt, torch.cat([queries] * (2 if len(count) == 6 else 1)), *rest, **options)

    monkeypatch.setattr(asker.decoder, "submit", failing)
    with pytest.raises(ValueError, match="image positions"):
        answers(asker)
    assert asker.decoder.cached_bytes == 0


@pytest.mark.parametrize("drawn", [{"num_beams": 2}, {}])
def test_what_cannot_be_cached_is_answered_too(model, folder, drawn, monkeypatch):
    asker = asker_of(model, folder, 3, max_new_tokens=8, **drawn)
    monkeypatch.setattr(asker.decoder, "uses_generate", not drawn)
    found = answers(asker)
    assert texts(found) == one_by_one(asker)
    assert {answer.fields["num_decoded_together"] for answer in found.values()} == {1}


@pytest.mark.parametrize(("batch_size", "num_scored"), [(1, [1] * 7), (4, [2, 3]), (50, [3])])
def test_equal_pictures_of_a_batch_are_scored_once(model, folder, batch_size, num_scored, monkeypatch):
    shown = [PICTURES[0], PICTURES[1], PICTURES[0], PICTURES[0], PICTURES[1], PICTURES[2], PICTURES[0]]
    scored = []

    def closed_sets(asker):
        answers = asker.answers(cases(), lambda which: [shown[place] for place in which], {})
        return {answer.key.case_id: answer.fields for answer in answers if answer.key.kind == "scores"}

    alone = {}
    for place, picture in enumerate(shown):
        (line,) = asker_of(model, folder, 1)._scores([cases()[place]], [picture])
        alone[f"case-{place}"] = line["class_scores"]
    original = Asker._scores
    monkeypatch.setattr(
        Asker,
        "_scores",
        lambda self, some, queries: scored.append(len(some)) or original(self, some, queries),
    )
    lines = closed_sets(asker_of(model, folder, batch_size))
    assert scored == num_scored
    assert list(lines) == [case.id for case in cases()]
    assert {name: line["class_scores"] for name, line in lines.items()} == {
        name: pytest.approx(scores, abs=1e-3) for name, scores in alone.items()
    }
