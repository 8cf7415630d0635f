"""Paragraphs and tables on paper: where lines break, and how wide columns are."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skingpt4.support.pdf import FONT, Paper

PAPER = Paper("lines")
WORDS = st.sampled_from(["a", "skin", "plaque,", "erythematous", "(0.5)", "Ödem", "не", "λ", "i" * 40])


def own_breaking(text, size):
    PAPER.set_font(FONT, "", size)
    return PAPER.multi_cell(0, size * 0.5, text, align="L", dry_run=True, output="LINES")


@settings(max_examples=40, deadline=None)
@given(st.lists(WORDS, min_size=1), st.sampled_from([6.5, 8.0, 9.0, 18.0]))
def test_lines_are_those_of_the_library(words, size):
    text = " ".join(words * 6)
    expected = own_breaking(text, size)
    assert PAPER._lines(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "x" * 400,
        f"before {'x' * 400} behind",
        "\u4e2d" * 300,
        "soft\u00adhyphen and more words",
        "",
        "  a  b",
    ],
)
def test_words_longer_than_a_line_are_broken(text):
    PAPER.set_font(FONT, "", 9)
    lines = PAPER._lines(text)
    room = PAPER.epw - 2 * PAPER.c_margin + 0.01
    assert all(PAPER.get_string_width(line) <= room for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace("\u00ad", "").replace(" ", "")


def test_line_breaks_stay_where_they_are_kept():
    paper = Paper("breaks")
    start = paper.y
    paper.text_block("one\r\n\ntwo  words", 8, keep_lines=True)
    assert paper.y - start == pytest.approx(3 * 4 + 8 * 0.16)


@pytest.mark.parametrize("text", ["word " * 40_000, "w" * 200_000, "a\n" * 20_000, "a\u00ad" * 100_000])
def test_a_long_text_takes_seconds(text):
    started = time.process_time()
    paper = Paper("long")
    paper.text_block(text, 9.5, keep_lines=True)
    assert paper.page_no() > 1
    assert time.process_time() - started < 15


@pytest.mark.parametrize("text", ["w" * 100_000, "word " * 20_000, "a\n" * 50_000])
def test_a_cell_that_is_longer_than_a_page_is_cut(text):
    started = time.process_time()
    paper = Paper("cell")
    paper.rows([["key", "value"], ["k", text]])
    assert time.process_time() - started < 15


def test_a_paragraph_takes_the_room_of_its_lines_and_goes_on_on_the_next_page():
    paper, text = Paper("room"), "The border is not regular and the colour varies. " * 20
    start = paper.y
    paper.text_block(text, 8)
    assert paper.y - start == pytest.approx(len(paper._lines(" ".join(text.split()))) * 4 + 8 * 0.16)
    assert paper.x == paper.l_margin
    for _ in range(40):
        paper.text_block(text, 8)
    assert paper.page_no() > 1


def test_no_word_of_a_heading_is_broken_where_the_page_has_room_for_all():
    headings = ["arm", "kind", "model", "version", "classes by", "precision", "ran on", "asked"]
    wished = [18, 36, 36, 18, 30, 13, 36, 30]  # characters
    widths = PAPER._whole_headings([1.9 * each + 3 for each in wished], headings, 7.2, 180)
    assert sum(widths) == pytest.approx(180)
    PAPER.set_font(FONT, "B", 7.2)
    room = 2 * (PAPER.c_margin + 0.7)
    for width, heading in zip(widths, headings, strict=True):
        assert width >= max(PAPER.get_string_width(word) for word in heading.split()) + room
    assert PAPER._whole_headings([20, 30], ["a", "b"], 7.2, 180) == [20, 30]
    assert PAPER._whole_headings([5, 5], ["x" * 90, "x" * 90], 7.2, 180)[0] > 90, (
        "too wide for any page: as wished"
    )
