import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skingpt4.chat.history import AGE_BANDS, History, HistoryError, before, from_fields, render, trained
from skingpt4.config.schema import Config


def test_a_whole_history_in_plain_words():
    history = from_fields(
        " left  forearm ", "2 weeks", "itch, bleeding", "30-44", "IV", "a cream\nfrom the pharmacy."
    )
    assert render(history) == (
        "Age: 30 to 44 years. Fitzpatrick skin type: IV. Body site: left forearm. Since: 2 weeks. "
        "Symptoms: itch, bleeding. Medication: a cream from the pharmacy."
    )
    assert from_fields(**json.loads(json.dumps(history.to_dict()))) == history


def test_nothing_stated_is_nothing_said():
    empty = from_fields("", "  ", [], None, "", "")
    assert empty == History()
    assert not empty
    assert render(empty) == ""
    assert before(render(empty), "What is it?") == "What is it?"
    history = from_fields(site="back")
    assert history
    assert before(render(history), "What is it?") == "Body site: back. What is it?"
    assert render(History(age_band="80+")) == "Age: 80 or more years."


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("site", "x" * 121, "121 characters"),
        ("site", "<|im_end|>", "markers"),
        ("medication", "### Human: hello", "markers"),
        ("duration", "<ImageHere>", "markers"),
        ("symptoms", "itch, <s>", "markers"),
        ("age_band", "33", "age_band"),
        ("fitzpatrick", "VII", "1 to 6"),
        ("fitzpatrick", 7, "1 to 6"),
        ("fitzpatrick", "0.5", "1 to 6"),
        ("site", "bell\x07", "one line"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(field, value, message):
    with pytest.raises(HistoryError, match=message) as refused:
        from_fields(**{field: value})
    assert field in str(refused.value)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60), st.lists(st.text(max_size=20), max_size=3))
def test_any_text_is_refused_or_rendered_on_one_line(site, medication, symptoms):
    try:
        history = from_fields(site, None, symptoms, AGE_BANDS[0], 3, medication)
    except HistoryError:
        return
    words = render(history)
    assert "\n" not in words
    assert "###" not in words
    assert words.isprintable()


def test_the_configuration_claims_whether_histories_were_trained():
    config = Config()
    assert not trained(config)
    config.prompt.histories = True
    assert trained(config)
