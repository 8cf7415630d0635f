"""No text of a CSV runs as a formula, and every text comes back."""

import csv
import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skingpt4.support.spreadsheets import csv_text, guarded, original

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "text",
    [
        '=HYPERLINK("http://x","y")',
        "@SUM(A1)",
        "+cmd|' /C calc'!A0",
        "-2+3",
        "\t1",
        "\r1",
        " =1",
        "＝1",
        "- plaque",
    ],
)
def test_a_formula_begins_with_an_apostrophe(text):
    assert guarded(text) == f"'{text}"
    assert original(guarded(text)) == text


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("red;=cmd|'/C calc'!A0;itchy", "red;'=cmd|'/C calc'!A0;itchy"),
        ("a\n=1+1;b; @SUM(A1)", "a\n'=1+1;b;' @SUM(A1)"),
        ("a;'=1\t＝2", "a;''=1\t'＝2"),
        ("\t=1", "'\t'=1"),
        ("a;b=c; d-e", "a;b=c; d-e"),
    ],
)
def test_a_text_that_falls_into_cells_holds_no_formula(text, cell):
    assert guarded(text) == cell
    assert original(cell) == text


@pytest.mark.parametrize(
    "value", ["-12", "+3.5", "-1,5", "plaque", "a=b", "5-3", "'quoted'", "", -12, 3.5, None]
)
def test_numbers_and_other_texts_stay_as_they_are(value):
    assert guarded(value) == value


@given(st.text(st.sampled_from("'=+-@＝ \t\r\n1,.;a\""), max_size=8) | st.text(max_size=8))
def test_every_text_comes_back_and_none_is_a_formula(text):
    cell = guarded(text)
    assert original(cell) == text
    assert not any(re.match(r"\s*[=+\-@＝]", part) for part in re.split(r"[;\t\r\n]", cell)[1:])
    assert not re.match(r"\s*[=+\-@＝]", cell) or re.fullmatch(r"[+-]\d+([.,]\d+)?", cell)
    table = csv_text(["a", "b"], [[text, 1]])
    assert list(csv.reader(io.StringIO(table, newline="")))[1:] == [[cell, "1"]]


def test_every_csv_of_the_project_is_written_here():
    writers = [
        str(path.relative_to(ROOT))
        for folder in ("skingpt4", "eval", "data", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"csv\.(?:Dict)?[wW]riter|\.to_csv\(|\.to_excel\(", path.read_text(encoding="utf-8"))
    ]
    assert writers == ["skingpt4/support/spreadsheets.py"]
