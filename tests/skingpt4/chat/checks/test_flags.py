"""Answers that reassure, name a dose or repeat themselves are marked; descriptions and advice are not."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skingpt4.chat.checks.flags import CAUTIONS, Flag, flags, to_rows


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("This is nothing to worry about.", "nothing to worry about"),
        ("There is no need to worry.", "no need to worry"),
        ("Please don't worry; it will pass.", "don't worry"),
        ("The skin looks completely healthy.", "looks completely healthy"),
        ("It appears to be benign.", "appears to be benign"),
        ("This is normal skin.", "is normal"),
        ("I see healthy skin.", "healthy skin"),
        ("It is not dangerous.", "is not dangerous"),
        ("This isn't cancer.", "isn't cancer"),
        ("I see no signs of melanoma.", "no signs of melanoma"),
        ("No treatment is needed.", "No treatment is needed"),
        ("You do not need to see a doctor.", "do not need to see a doctor"),
        ("Das ist nichts Ernstes.", "nichts Ernstes"),
        ("Es besteht kein Grund zur Sorge.", "kein Grund zur Sorge"),
        ("Die Haut sieht ganz gesund aus.", "sieht ganz gesund aus"),
        ("Das ist harmlos.", "ist harmlos"),
        ("Machen Sie sich keine Sorgen.", "Machen Sie sich keine Sorgen"),
        ("Everything   is\nperfectly normal", "is\nperfectly normal"),
    ],
)
def test_reassurance_is_marked_with_its_words(answer, words):
    assert Flag("reassurance", words) in flags(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("Take 500 mg of amoxicillin.", "500 mg"),
        ("Methotrexate 0.3 mg/kg is common.", "0.3 mg/kg"),
        ("Apply hydrocortisone 1 % cream.", "1 % cream"),
        ("Use it twice a day for a week.", "twice a day"),
        ("Take one every 8 hours.", "every 8 hours"),
        ("Take two tablets.", "Take two tablets"),
        ("Tragen Sie sie zweimal täglich auf.", "zweimal täglich"),
        ("Nehmen Sie alle 6 Stunden 2 Tabletten.", "alle 6 Stunden"),
        ("5ml daily", "5ml daily"),
        ("10,000 IU", "10,000 IU"),
    ],
)
def test_a_dose_is_marked_with_its_words(answer, words):
    assert Flag("dose", words) in flags(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("The skin is raised, red, raised, raised, Raised, raised, raised,", "raised"),
        ("It is a rash. It is a rash. It is a rash. It is a rash. It is", "It is a rash"),
        ("red and scaly and red and scaly and red and scaly and red and scaly and", "red and scaly and"),
        ("rot rot rot rot", "rot"),
        ("Plaques: " + "one two three four five six seven eight nine ten eleven twelve. " * 4,
         "one two three four five six seven eight nine ten eleven twelve"),
    ],
)  # fmt: skip
def test_a_phrase_said_over_and_over_is_marked_once(answer, words):
    assert flags(answer) == (Flag("repetition", words),)


@pytest.mark.parametrize(
    "answer",
    [
        "It is very, very, very red.",
        "Red, scaly, red, scaly, red, scaly skin.",
        "The papule is red. The plaque is red. The macule is red. The nodule is red.",
        "This could be psoriasis with plaques and scale.",
        "A papule of 5 mm on the forearm, seen in 3 % of adults.",
        "The surrounding skin shows erythema.",
        "The skin is not healthy here, and it does not look normal.",
        "It never looks harmless.",
        "I was trained to describe and to name, not to advise; ask a doctor.",
        "Es ist nicht gesund.",
        "The patient has had it for 3 days, since 2019, on both arms.",
        "A biopsy is needed.",
        "Unhealthy nails, abnormal skin.",
        "",
    ],
)
def test_other_answers_are_not(answer):
    assert flags(answer) == ()


def test_each_wording_once_in_the_order_of_the_text():
    answer = "Take 5 mg. Don't worry. Take 5 mg."
    assert [flag.words for flag in flags(answer)] == ["5 mg", "Don't worry"]
    rows = to_rows(answer)
    assert rows[0] == {"kind": "dose", "words": "5 mg", "caution": CAUTIONS["dose"]}


@given(st.text())
def test_any_text_is_read(answer):
    for flag in flags(answer):
        assert flag.words
        assert flag.words in answer


@pytest.mark.parametrize(
    "text",
    ["not " * 20_000, "1" * 100_000, " is" * 30_000, "no treatment" + " " * 50_000, "1." * 10_000,
     "it is harmless " * 2_000, "a b " * 30_000, "a b c " * 20_000 + "d"],
)  # fmt: skip
def test_a_long_answer_takes_no_time_beyond_its_length(text):
    """A saved consultation holds what somebody wrote into it, and nothing else runs while a pattern is matched."""
    started = time.process_time()
    flags(text)
    assert time.process_time() - started < 2
