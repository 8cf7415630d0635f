import pytest

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
    assert ratings.read_csv(tmp_path / "r.csv") == rows


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("arm,case_id,rater,item\n", "has no column value"),
        ("arm,case_id,rater,item,value\n", "holds no ratings"),
        (
            "arm,case_id,rater,item,value\na,c,r,diagnosis,6\n",
            "line 2: diagnosis is '6'; it must be one of 1, 2",
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
        ratings.read_csv(path)


def test_a_missing_csv_gets_a_sentence(tmp_path):
    with pytest.raises(ratings.RatingsError, match="cannot be read"):
        ratings.read_csv(tmp_path / "none.csv")
