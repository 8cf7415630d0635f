"""docs/reliability.md names only tests that are there."""

import json
import re
from pathlib import Path

import pytest

from tests.support import soak_figures

ROOT = Path(__file__).parents[1]


def test_every_test_that_is_named_is_there():
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "tests/" in line]
    assert len(rows) > 20
    for row in rows:
        folder = ROOT
        for name in re.findall(r"`((?:tests/[\w/]+/)?test_\w+\.py|tests/test_\w+\.py)`", row):
            folder = (ROOT / name).parent if name.startswith("tests/") else folder
            path = ROOT / name if name.startswith("tests/") else folder / name
            assert path.is_file(), row


def test_the_last_figures_are_those_of_the_files():
    text = soak_figures.PAGE.read_text(encoding="utf-8")
    names = [match["name"] for match in soak_figures.CELL.finditer(text)]
    assert sorted(names) == sorted(soak_figures.SENTENCES), "each once"
    assert soak_figures.with_figures(text) == text, "python -m tests.support.soak_figures"


@pytest.mark.parametrize("path", [*soak_figures.RESULTS.glob("*.json")], ids=lambda path: path.stem)
def test_a_committed_soak_is_a_complete_one_of_a_clean_commit(path):
    run = json.loads(path.read_text(encoding="utf-8"))
    assert path.stem in soak_figures.SENTENCES
    assert re.fullmatch(r"[0-9a-f]{40}", run["commit"])
    assert run["scale"] >= 1
    assert run["n"] > 0
    assert {"command", "date", "hardware", "versions", "seed"} <= run.keys()


def test_a_cell_says_what_the_file_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(soak_figures, "RESULTS", tmp_path)
    page = "| a | `b` | not measured (soak browsers) |\n| c | `d` | - |\n"
    assert soak_figures.with_figures(page) == page
    run = {"answers": 1200, "browsers": 16, "mixed": 0, "commit": "ab" * 20}
    (tmp_path / "browsers.json").write_text(json.dumps(run))
    filled = soak_figures.with_figures(page)
    assert filled == page.replace(
        "not measured (soak browsers)", "1,200 answers in 16 browsers, 0 mixed (soak browsers, abababa)"
    )
    assert soak_figures.with_figures(filled) == filled
