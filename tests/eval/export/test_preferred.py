"""Ratings to preferences: the better-rated conversation of each case, and what is left out."""

import json

import pytest

from eval import preferences as command
from eval.export.preferred import differences
from eval.rating.ratings import Rating, write_csv
from skingpt4.records.manifest import read_manifest
from tests.support.review_run import make_run
from tests.support.tiny import write_manifest


@pytest.fixture
def rated(tmp_path):
    """Four cases under two arms; `better` is rated 5 and 4, `worse` 2 and 2, in the last case both 3."""
    run = make_run(tmp_path / "run", ("better", "worse"), num_cases=4)
    cases = tmp_path / "cases.jsonl"
    write_manifest(cases, 4)
    rows = [json.loads(line) for line in cases.read_text().splitlines()]
    for number, row in enumerate(rows):
        row |= {
            "case_id": f"melanoma_{number}",
            "class": "melanoma_nevi_moles",
            "concepts": [],
        }
    cases.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run, cases


def ratings(role="dermatologist", arms=("better", "worse")):
    made = []
    for number in range(4):
        for rater, points in (("r1", (5, 2)), ("r2", (4, 2))):
            for arm, value in zip(arms, points if number < 3 else (3, 3), strict=True):
                made.append(Rating(arm, f"melanoma_{number}", rater, "diagnosis", str(value), role=role))
    return made


def make(rated, rows, *options):
    run, cases = rated
    write_csv(rows, run / "ratings.csv")
    out = run / "made" / "preferences.jsonl"
    status = command.main(["--run-dir", str(run), "--cases", str(cases), "--out", str(out), *options])
    return status, out


def test_the_better_rated_conversation_is_preferred(rated, capsys):
    status, out = make(rated, ratings())
    assert status == 0
    assert "3 pairs of 3 cases, from 2 raters" in capsys.readouterr().out
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["x_preferred_arm"], r["x_rejected_arm"], r["x_points"], r["x_raters"]) for r in rows] == [
        ("better", "worse", 2.5, 2)
    ] * 3
    records = read_manifest(out)
    assert [record.image_path.is_file() for record in records] == [True] * 3
    for record in records:
        assert [q for q, _ in record.turns] == [q for q, _ in record.rejected]
        assert all("(better)" in answer for _, answer in record.turns)
        assert all("(worse)" in answer for _, answer in record.rejected)


def test_only_who_rated_both_arms_counts_and_each_rater_counts_alike():
    rows = [
        Rating("a", "c", "r1", "diagnosis", "5"), Rating("b", "c", "r1", "diagnosis", "1"),
        Rating("a", "c", "r2", "diagnosis", "2"), Rating("b", "c", "r2", "diagnosis", "4"),
        Rating("a", "c", "r2", "suggestions", "2"), Rating("b", "c", "r2", "suggestions", "4"),
        Rating("b", "c", "r3", "diagnosis", "5"),
    ]  # fmt: skip
    assert differences(rows) == {("c", "a", "b"): (1.0, 2)}


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (ratings() + ratings("lay"), (), "a rater has one role"),
        (ratings(), ("--role", "lay"), "has no ratings of role 'lay'"),
        (ratings(), ("--item", "comment"), "is not an item with points"),
        (ratings(arms=("better", "nobody")), (), "the rated arm 'nobody' is not in"),
        (ratings(), ("--min-difference", "4"), "no pair is left"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(rows, options, message, rated, capsys):
    if rows[-1].role == "lay":
        rows = [
            r if r.role == "dermatologist" else Rating(**{**vars(r), "item": "suggestions"}) for r in rows
        ]
    status, out = make(rated, rows, *options)
    assert status == 1
    assert message in capsys.readouterr().err
    assert not out.exists()
