import pytest

from eval import published
from eval.rating import audit
from eval.rating.ratings import Rating, write_csv
from skingpt4.taxonomy.published import published as printed


def test_counts_behind_a_percentage_by_every_way_of_rounding():
    assert audit.counts_behind(75.0, 160) == [120]
    assert audit.counts_behind("83.33", 6) == [5]
    assert audit.counts_behind("66.66", 3) == [2]  # cut off
    assert audit.counts_behind("66.67", 3) == [2]  # rounded
    assert audit.counts_behind(80.63, 150) == []


@pytest.mark.parametrize("n", [7, 45, 150, 160])
def test_every_share_finds_its_own_count(n):
    for k in range(n + 1):
        assert k in audit.counts_behind(f"{100 * k / n:.2f}", n)


def test_the_paper_against_itself():
    result = audit.audit(printed())
    for version in ("preprint", "article"):
        found = result["questionnaire"][version]
        assert found["best_denominator"] == 160
        assert not any(row["possible_with_stated_cases"] for row in found["rows"])
    readings = {reading["n"]: reading["counts"] for reading in result["consistency"]}
    assert readings[450] == readings[45] == []
    assert readings[2025] == [1898]
    assert result["table2"]["sum_of_rows"] == result["table2"]["printed_total"] == 49_043


def test_own_ratings_stand_beside_the_printed_ones(tmp_path, capsys):
    ratings = [
        Rating(arm, f"c{case}", rater, "diagnosis", "5" if case < 30 and arm == "two_step" else "2")
        for arm in ("two_step", "other")
        for case in range(40)
        for rater in ("r1", "r2")
    ]
    write_csv(ratings, tmp_path / "r.csv")
    assert (
        published.main(
            ["--ratings", str(tmp_path / "r.csv"), "--arm", "two_step", "--json", str(tmp_path / "a.json")]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "75.0 % (" in out
    assert "n = 40)" in out
    assert (tmp_path / "a.json").is_file()


def test_ratings_of_several_arms_are_not_pooled(tmp_path, capsys):
    write_csv(
        [Rating(arm, "c1", "r1", "diagnosis", "5") for arm in ("two_step", "other")], tmp_path / "r.csv"
    )
    for more, words in (([], "rates several arms"), (["--arm", "x"], "has no ratings of arm 'x'")):
        assert published.main(["--ratings", str(tmp_path / "r.csv"), *more]) == 1
        assert f"{words}; name one with --arm: two_step, other" in capsys.readouterr().err


def test_two_raters_who_always_agree_do_not_halve_the_interval():
    def half_width(raters):
        ratings = [
            Rating("a", f"c{case}", rater, "diagnosis", "5" if case % 2 else "1")
            for case in range(60)
            for rater in raters
        ]
        interval = audit.agreement(ratings, "diagnosis")
        return interval.high - interval.low

    assert half_width(["r1", "r2", "r3"]) == pytest.approx(half_width(["r1"]), rel=0.05)


def test_a_missing_csv_gets_a_sentence(tmp_path, capsys):
    assert published.main(["--ratings", str(tmp_path / "none.csv")]) == 1
    assert "no such file" in capsys.readouterr().err
