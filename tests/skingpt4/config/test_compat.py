"""The switch to the original's behaviour: what it refuses, and what it changes in a sample."""

import dataclasses
from pathlib import Path

import pytest

from skingpt4.config.compat import BEHAVIOURS, OURS
from skingpt4.config.load import load_config
from skingpt4.config.schema import ConfigError
from skingpt4.records.record import Record
from skingpt4.training.samples import SampleEncoder, TrainingSamples
from tests.support.tiny import make_tokenizer

ROOT = Path(__file__).parents[3]
VICUNA = ROOT / "configs/paper/step2_vicuna7b.yaml"
NOTE = "This could be a skin disease. See a doctor soon. Keep the skin dry and clean."


def test_none_is_ours_and_minigpt4_differs_in_every_field():
    assert BEHAVIOURS["none"] is OURS
    theirs = dataclasses.asdict(BEHAVIOURS["minigpt4"])
    assert all(value != theirs[key] for key, value in dataclasses.asdict(OURS).items())


def test_one_word_on_the_command_line_is_enough_for_the_papers_vicuna_runs():
    for step in ("step1", "step2"):
        path = ROOT / f"configs/paper/{step}_vicuna7b.yaml"
        assert load_config(path, ["compat=minigpt4"]).compat == "minigpt4"
    assert load_config(VICUNA).compat == "none"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prompt.template=llama2", r"'compat' minigpt4 needs prompt\.template: vicuna, found 'llama2'"),
        ("data.augment=false", r"'compat' minigpt4 needs data\.augment: true, found False"),
        ("prompt.concepts_question=Q?", r"needs prompt\.concepts_question: null, found 'Q\?'"),
        ("compat=minigpt", "'compat' is 'minigpt'; choose one of none, minigpt4"),
    ],
)
def test_contradictory_keys_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(VICUNA, ["compat=minigpt4", override])
    if not override.startswith("compat"):
        load_config(VICUNA, [override])


@pytest.fixture(scope="module")
def encoders():
    """(ours, theirs): for the paper's prompt, with 20 tokens for an answer."""
    prompt, tokenizer = load_config(VICUNA).prompt, make_tokenizer("llama")
    return [SampleEncoder(prompt, tokenizer, 4, 20, blindly) for blindly in (False, True)]


def answer_of(encoded, tokenizer):
    return tokenizer.decode([i for i, s in zip(encoded.input_ids, encoded.supervised, strict=True) if s])


def test_a_long_answer_loses_its_end_only_in_the_originals_way(encoders):
    record = Record("a", note=NOTE)
    ours, theirs = (answer_of(e(record, "Q"), e.tokenizer) for e in encoders)
    uncut = encoders[0].tokenizer(NOTE + "###")["input_ids"]
    assert len(uncut) > 20
    assert ours == "This could be a skin disease.###"
    assert theirs == encoders[0].tokenizer.decode(uncut[:20])
    assert not theirs.endswith("###")


def test_a_short_answer_is_the_same_either_way(encoders):
    record = Record("a", note="Acne.")
    assert encoders[0](record, "Q") == encoders[1](record, "Q")


def test_a_question_is_shared_by_a_batch_and_drawn_again_for_the_next(encoders):
    records = [Record(str(n), note="Acne.") for n in range(5)]

    def texts(per_question, seed=0):
        samples = TrainingSamples(records, encoders[0], lambda row, rng: {}, seed, per_question)
        return [tuple(samples[index]["encoded"].input_ids) for index in range(60)]

    batches = [set(texts(4)[start : start + 4]) for start in range(0, 60, 4)]
    assert all(len(batch) == 1 for batch in batches)
    assert len(set.union(*batches)) == 2  # both questions come
    assert any(len(set(texts(1)[start : start + 4])) == 2 for start in range(0, 60, 4))
    assert texts(4) == texts(4) != texts(4, seed=1)
