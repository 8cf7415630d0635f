"""The leaderboard: what can be compared stands in one table, and nothing else."""

import csv
import json

import pytest

from eval.compare import main
from tests.eval.test_report import Page
from tests.support.partial_run import cases, copy_old, scores, texts


@pytest.fixture
def runs(tmp_path):
    """Two runs of the same cases and one of another list."""
    first, second, other = (copy_old(tmp_path / name / "run") for name in ("first", "second", "other"))
    scores(first, "probe", num_right=6)
    scores(second, "probe", num_right=2)
    texts(second, "dermatologist")
    for path in (other / "answers").glob("*.meta.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "cases_sha256": "ef" * 32}))
    return first, second, other


def test_only_comparable_arms_stand_in_one_table(runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*map(str, runs), "--out", str(out)]) == 0
    assert "leaderboard:" in capsys.readouterr().out
    tables = json.loads((out / "compare.json").read_text())["tables"]
    assert [len(table["entries"]) for table in tables] == [7, 2]
    best = tables[0]["entries"][0]
    assert (best["run"], best["arm"], best["top1"]["value"]) == ("first/run", "probe", 1.0)
    values = [entry["top1"]["value"] for entry in tables[0]["entries"] if entry["top1"]]
    assert values == sorted(values, reverse=True)
    last = tables[0]["entries"][-1]
    assert (last["arm"], last["top1"]) == ("dermatologist", None)
    worst = next(e for e in tables[0]["entries"] if (e["run"], e["arm"]) == ("second/run", "probe"))
    behind = worst["against_best"]["top1"]
    assert behind["value"] == pytest.approx(4 / 6)
    assert behind["p_holm"] >= behind["p"]
    assert behind["num_tests"] == 5


def test_page_and_csv_say_the_same(runs, tmp_path):
    out = tmp_path / "out"
    assert main([*map(str, runs), "--out", str(out), "--sort", "top1_text"]) == 0
    text = (out / "compare.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert "http://" not in text
    assert "Research software, not a medical device." in page.text
    assert "Apart from the first table, because this is another list of cases." in page.text
    assert "– no text read for a class" in page.text
    rows = list(csv.DictReader((out / "compare.csv").open(encoding="utf-8")))
    assert len(rows) == 9
    assert {row["table"] for row in rows} == {"1", "2"}
    person = next(row for row in rows if row["arm"] == "dermatologist")
    assert (person["top1_value"], person["top1_text_n"]) == ("", "6")


def test_another_task_is_another_table(runs, tmp_path):
    task = {"name": "two", "title": "Two", "about": "Others.", "classes": [c["class"] for c in cases(runs[1])],
            "options": {c["class"]: [c["class"]] for c in cases(runs[1])}, "sha256": "0" * 64}  # fmt: skip
    (runs[1] / "task.json").write_text(json.dumps(task))
    assert main([str(runs[0]), str(runs[1]), "--out", str(tmp_path / "out")]) == 0
    assert "because this is another task." in (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")


def test_errors_are_one_sentence(runs, tmp_path, capsys):
    assert main([str(runs[0]), str(runs[0])]) == 1
    assert "is named twice; name each run once" in capsys.readouterr().err
    assert main([str(tmp_path / "none")]) == 1
    assert "holds no answers" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([str(runs[0]), "--out", str(tmp_path / "file" / "x")]) == 1
    assert "cannot be written" in capsys.readouterr().err
