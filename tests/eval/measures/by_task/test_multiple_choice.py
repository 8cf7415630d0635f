import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.measures.by_task.multiple_choice import Question, credit, multiple_choice, questions

NAMES = tuple("PQRSTUVW")


def line(case_id, shown, scores):
    return {"case_id": case_id, "concepts": shown, "concept_scores": scores, "cluster": case_id}


def test_three_questions_of_two_cases_by_hand():
    # The first case shows P, which has the highest score of all (right), and Q, which has the lowest (wrong). The
    # second shows P and cannot tell the four options apart: one in four. Together (1 + 0 + 1/4) / 3.
    scores = dict.fromkeys(NAMES, 0.0)
    lines = [line("a", ["P", "Q"], scores | {"P": 3.0, "Q": -1.0}), line("b", ["P"], scores)]
    figures = multiple_choice(lines, NAMES, 4, about_concepts=True)
    assert figures["accuracy"]["value"] == pytest.approx(1.25 / 3)
    assert (figures["num_questions"], figures["num_cases"], figures["chance"]) == (3, 2, 0.25)
    assert figures["per_name"] == {
        "P": {"accuracy": 0.625, "num_questions": 2}, "Q": {"accuracy": 0.0, "num_questions": 1},
    }  # fmt: skip
    # Drawn cases: a and a 2/4, b and b 1/4, one of each 1.25/3.
    assert figures["accuracy"]["low"] == pytest.approx(0.25)
    assert figures["accuracy"]["high"] == pytest.approx(0.5)


def test_credit_is_shared_among_equals():
    question = Question(("P", "Q", "R", "S"), "P")
    assert credit(question, {"P": 1.0, "Q": 1.0, "R": 0.0, "S": 0.0}) == 0.5
    assert credit(question, {"P": 0.0, "Q": 1.0, "R": 0.0, "S": 0.0}) == 0.0
    assert credit(question, {"P": 2.0, "Q": 1.0, "R": 0.0, "S": 0.0, "T": 9.0}) == 1.0  # T is no option


def test_classes_as_multiple_choice():
    lines = [
        {"case_id": "a", "cluster": 0, "class": "P", "class_scores": dict.fromkeys(NAMES, 0.0) | {"P": 1.0}}
    ]
    assert multiple_choice(lines, NAMES, 4, about_concepts=False)["accuracy"]["value"] == 1.0


def test_nothing_to_ask():
    assert multiple_choice([line("a", None, {}), line("b", ["P"], None)], NAMES, 4, about_concepts=True) == {}
    assert questions("a", NAMES[:6], NAMES, 4) == []  # only two names are not shown


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1), st.sets(st.sampled_from(NAMES)), st.integers(2, 5))
def test_a_question_has_one_right_option_and_depends_on_its_case_alone(case_id, shown, choices):
    asked = questions(case_id, shown, NAMES, choices)
    assert asked == questions(case_id, sorted(shown, reverse=True), NAMES, choices)
    for question in asked:
        assert len(set(question.options)) == choices
        assert [name for name in question.options if name in shown] == [question.right]
    expected = len(shown) if len(NAMES) - len(shown) >= choices - 1 else 0
    assert len(asked) == expected


def test_guessing_is_as_good_as_chance():
    import random

    rng = random.Random(0)
    lines = [line(str(n), ["P", "Q"], {name: rng.random() for name in NAMES}) for n in range(1000)]
    figures = multiple_choice(lines, NAMES, 4, about_concepts=True)
    # 2000 questions: the standard error of 1/4 is 0.0097.
    assert figures["accuracy"]["value"] == pytest.approx(0.25, abs=0.04)
    assert figures["accuracy"]["low"] < 0.25 < figures["accuracy"]["high"]
