import pytest

from eval.asking.answers import Answer, ArmAnswers, Key
from eval.measures.texts import (
    different_answers,
    distinct,
    is_on_topic,
    median,
    on_topic,
    repeats_a_sentence,
    text_statistics,
)
from skingpt4.generation.questions import CLINICAL_PROMPTS


def test_distinct_by_hand():
    assert distinct("Red, red papule.", 1) == pytest.approx(2 / 3)
    assert distinct("a b a b", 2) == pytest.approx(2 / 3)
    assert distinct("one", 2) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("It is acne. It is acne.", True),
        ("It is acne. it is ACNE!", True),
        ("It is acne. It is not.", False),
        ("", False),
    ],
)
def test_repeated_sentences(text, said):
    assert repeats_a_sentence(text) is said


def test_median_has_an_interval():
    found = median([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (found.value, found.n) == (3, 5)
    assert found.low >= 1
    assert found.high <= 100


def test_statistics_by_turn_and_probe():
    arm = ArmAnswers("two_step", {"decoding": {"max_new_tokens": 4}})
    texts = ["It is acne.", "It is acne.", "", "Scale and scale and."]
    for case, text in enumerate(texts):
        for kind in ("turn", "probe"):
            key = Key(f"case-{case}", 0, None, kind, 1)
            said = {"answer": text, "num_tokens": len(text.split()), "seconds": 1.0 + case}
            arm.lines[key] = Answer("two_step", key, said | {"prompt": "?", "question": "!"})
    for repeat, change in ((1, None), (0, "jpeg:20")):
        key = Key("case-0", repeat, change, "turn", 1)
        arm.lines[key] = Answer("two_step", key, {"answer": "left out", "prompt": "?"})
    found = text_statistics(arm)
    assert list(found) == ["turn 1", "probe 1"]
    turn = found["turn 1"]
    assert turn["question"] == "?"
    assert found["probe 1"]["question"] == "!"
    assert turn["words"]["value"] == pytest.approx((3 + 3 + 0 + 4) / 4)
    assert turn["same_as_another_case"]["value"] == 0.5
    assert turn["num_different_texts"] == 3
    assert turn["empty"]["value"] == 0.25
    assert turn["cut_by_limit"]["value"] == 0.25
    assert (turn["distinct_1"]["value"], turn["distinct_1"]["n"]) == (pytest.approx((1 + 1 + 0.5) / 3), 3)
    assert turn["seconds"]["value"] == 2.5


def test_no_answers():
    assert text_statistics(ArmAnswers("x", {})) == {}


def test_answers_that_differ_from_prompt_to_prompt():
    arm = ArmAnswers("two_step", {})
    said = {
        "a": ["Acne.", "Scale."],
        "b": ["Acne.", "acne"],
        "c": ["Acne.", "Ask a doctor."],
        "d": ["Not yet"],
    }
    for case, texts in said.items():
        for number, text in enumerate(texts, 1):
            key = Key(case, 0, None, "turn", number)
            arm.lines[key] = Answer("two_step", key, {"answer": text, "prompt": "?"})
    found = different_answers(arm)
    assert (found.value, found.n) == (pytest.approx(2 / 3), 3)
    assert different_answers(ArmAnswers("x", {})) is None


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        (1, "This could be a skin disease image of acne."),
        (1, "I see a few scaly papules."),
        (2, "The lower leg is affected, on fair skin."),
        (2, "There are also pustules."),
        (3, "It is caused by a mite."),
        (3, "I was trained to name and describe what an image shows, not to explain its cause; please ask a doctor."),
        (4, "A topical steroid cream is common."),
        (4, "Please see a dermatologist."),
    ],
)  # fmt: skip
def test_answers_about_what_was_asked(prompt, answer):
    assert is_on_topic(prompt, answer)


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        (1, ""),
        (1, "I am a helpful assistant."),
        (2, "I am a helpful assistant."),
        (3, "This could be a skin disease image of melasma."),
        (4, "This could be a skin disease image of acne."),
        (4, "The back is affected."),
    ],
)
def test_answers_about_something_else(prompt, answer):
    assert not is_on_topic(prompt, answer)


def test_shares_are_of_each_clinical_prompt_alone():
    arm = ArmAnswers("two_step", {})
    answers = [(1, "Acne."), (1, "Hello."), (4, "Ask a doctor.")]
    for place, (number, text) in enumerate(answers):
        key = Key(f"case {place}", 0, None, "turn", number)
        arm.lines[key] = Answer("two_step", key, {"answer": text, "prompt": CLINICAL_PROMPTS[number - 1]})
    other = Key("case 9", 0, None, "turn", 2)
    arm.lines[other] = Answer("two_step", other, {"answer": "Acne.", "prompt": "Another question?"})
    shares = on_topic(arm)
    assert set(shares) == {"turn 1", "turn 4"}
    assert (shares["turn 1"]["value"], shares["turn 1"]["n"]) == (0.5, 2)
    assert on_topic(ArmAnswers("x", {})) == {}
