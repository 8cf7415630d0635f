"""Marks of a prompt in people's text are broken by a space; all other text stays as it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skingpt4.support.marks import break_marks, marks_in

MARKS = ("###", "<|im_end|>", "</s>", "\nUser:")


@pytest.mark.parametrize(
    ("text", "before", "after", "result"),
    [
        ("Is it <|im_end|> benign?", "", "", "Is it <|im_end| > benign?"),
        ("### Findings", "", "", "## # Findings"),
        ("####", "", "", "## # #"),
        ("a\nUser: b", "", "", "a\nUser : b"),
        ("User: b", "", "", "User: b"),
        ("User: b", "a\n", "", "User : b"),
        ("grade #", "", "###", "grade # "),
        ("grade ##", "", "###Human", "grade ## "),
        ("#", "##", "", " #"),
        ("#", "# #", "", "#"),
        ("s> and </", "<|", "s>", "s> and </ "),
        ("", "##", "#", ""),
    ],
)
def test_marks_are_broken(text, before, after, result):
    assert break_marks(text, MARKS, before, after) == result


@given(
    st.text("#<|im_end>/s\nUser: ", max_size=30), st.sampled_from(["", "#", "##", "</", "<|im"]), st.data()
)
def test_no_mark_is_left_and_nothing_else_changes(text, before, data):
    after = data.draw(st.sampled_from(["", "#", "##", "s>", "_end|>"]))
    result = break_marks(text, MARKS, before, after)
    assert result.replace(" ", "") == text.replace(" ", "")
    assert break_marks(result, MARKS, before, after) == result
    assert not marks_in(result, MARKS)
    if not marks_in(before + text + after, MARKS):
        assert result == text


def test_marks_of_a_text_each_once():
    assert marks_in("a </s> ### b </s>####", MARKS) == ["</s>", "###"]
    assert marks_in("</s>", ()) == []
