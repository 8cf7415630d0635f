import csv

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.rating import ratings
from eval.rating.ratings import Rating

ONE = Rating("two_step", "c1", "r1", "diagnosis", "5", "12.5", "2026-01-01T00:00:00Z")


def test_a_csv_comes_back_as_it_was_written(tmp_path):
    rows = [
        ONE,
        Rating("two_step", "c1", "r1", "comment", 'lines\nand "quotes", too'),
        Rating("a", "c2", "r1", "hallucination", "0"),
    ]
    ratings.write_csv(rows, tmp_path / "r.csv")
    assert ratings.read_ratings(tmp_path / "r.csv") == rows


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("arm,case_id,rater,item\n", "has no column value"),
        ("arm,case_id,rater,item,value\n", "holds no ratings"),
        (
            "arm,case_id,rater,item,value\na,c,r,diagnosis,6\n",
            "row 2: diagnosis is '6'; it must be one of 1, 2",
        ),
        ("arm,case_id,rater,item,value\na,c,r,diagnose,5\n", "'diagnose' is not an item"),
        ("arm,case_id,rater,item,value\na,,r,diagnosis,5\n", "must not be empty"),
        ("arm,case_id,rater,item,value\na,c,r,diagnosis,5\na,c,r,diagnosis,4\n", "answers diagnosis twice"),
    ],
)
def test_a_wrong_csv_gets_a_sentence(tmp_path, text, sentence):
    path = tmp_path / "r.csv"
    path.write_text(text)
    with pytest.raises(ratings.RatingsError, match=sentence):
        ratings.read_ratings(path)


def test_a_missing_csv_gets_a_sentence(tmp_path):
    with pytest.raises(ratings.RatingsError, match="no such file"):
        ratings.read_ratings(tmp_path / "none.csv")


@pytest.mark.parametrize("written", ["4", "4.0", "4,0", " 4 ", "4."])
def test_a_rating_is_a_number_however_it_is_written(tmp_path, written):
    path = tmp_path / "r.csv"
    path.write_text(f"arm;case_id;rater;item;value;seconds\na;c;r;diagnosis;{written};12,5\n")
    assert ratings.read_ratings(path) == [Rating("a", "c", "r", "diagnosis", "4", "12.5")]


def test_ratings_of_a_workbook_and_of_a_german_excel(tmp_path):
    rows = [["rater", "arm", "case_id", "item", "value"], ["jö", "a", 7, "diagnosis", 4]]
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(tmp_path / "r.xlsx")
    text = "\r\n".join(["sep=;", *(";".join(map(str, row)) for row in rows)])
    (tmp_path / "r.csv").write_bytes(text.encode("utf-16"))
    (tmp_path / "w.csv").write_bytes(text.encode("cp1252"))
    for name in ("r.xlsx", "r.csv", "w.csv"):
        assert ratings.read_ratings(tmp_path / name) == [Rating("a", "7", "jö", "diagnosis", "4")]


def test_words_for_nothing_are_no_comment_and_no_rater(tmp_path, caplog):
    caplog.set_level("INFO")
    path, head = tmp_path / "r.csv", "arm,case_id,rater,item,value,seconds,time\n"
    path.write_text(
        f"{head}a,c,r,diagnosis,4,nan,NaT\na,c,r,comment,n/a,,\na,d,r,comment,fine,,\n"
        "a,c,r,own_diagnosis,not known,,\n"
    )
    assert ratings.read_ratings(path) == [
        Rating("a", "c", "r", "diagnosis", "4"),
        Rating("a", "d", "r", "comment", "fine"),
        Rating("a", "c", "r", "own_diagnosis", "not known"),  # the form takes it for an answer
    ]
    assert "comments that say nothing (nan, -, ...), left out: 1" in caplog.text
    for line in ("a,nan,r,diagnosis,4,,", "a,c,unknown,diagnosis,4,,"):
        path.write_text(f"{head}{line}\n")
        with pytest.raises(ratings.RatingsError, match="row 2: arm, case_id and rater must not be empty"):
            ratings.read_ratings(path)


FORMULAS = ["=", "+", "-", "@", "\t", "＝", "'", "''=", "1", "a", '"', "\n", ";", ","]


@given(st.lists(st.lists(st.sampled_from(FORMULAS), min_size=1).map("".join), max_size=5))
def test_no_text_is_a_formula_and_all_come_back(tmp_path_factory, texts):
    texts = [text.strip() for text in texts]
    rows = [Rating("a", f"c{n}", "r", "own_diagnosis", text) for n, text in enumerate(texts)]
    path = tmp_path_factory.mktemp("csv") / "r.csv"
    ratings.write_csv([ONE, *rows], path)
    cells = [cell for line in csv.reader(path.open(newline="", encoding="utf-8")) for cell in line]
    assert [c for c in cells if c.lstrip()[:1] in set("=+-@＝") - {""} and not c[1:].isdigit()] == []
    assert ratings.read_ratings(path) == [ONE, *rows]
