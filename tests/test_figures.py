"""Printed figures against the files they were measured in.

A comment behind a table or paragraph says where its figures come from, a number and its place in a JSON at a time:

    <!-- figures of benchmarks/results/train.json: 2.04 = measured.ratios.seconds.median; ... -->

A place is keys and numbers of list items with dots between them. `median(...)`, `mean(...)`, `min(...)`, `max(...)`
and `len(...)` go over a list; `1 / ...` inverts, and `... * 100` or `... / 1048576` changes the unit.
"""

import json
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "data/README.md"]
COMMENT = re.compile(r"<!-- figures of (\S+\.json): (.*?) -->", re.S)
PLACE = re.compile(r"(1 / )?(?:(median|mean|min|max|len)\((.+)\)|(.+?))(?: ([*/]) ([\d.e]+))?")
FUNCTIONS = {"median": statistics.median, "mean": statistics.mean, "min": min, "max": max, "len": len}
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w.]*\d)")
# Tables in which every number with a decimal point needs its place.
COVERED = {"README.md": ["## Speed"], "docs/performance.md": ["## Against the targets"]}


def sections(text):
    """Headings with what follows them, up to the next heading."""
    parts = re.split(r"^(#+ .*)$", text, flags=re.M)
    return dict(zip(["", *parts[1::2]], [parts[0], *parts[2::2]], strict=True))


def figures(section):
    """(printed number, file, place) of each figure that a section's comments name."""
    for path, items in COMMENT.findall(section):
        for item in items.split(";"):
            printed, _, place = " ".join(item.split()).partition(" = ")
            yield printed, path, place


def read(path, place):
    """The value at a place."""
    inverse, function, listed, single, sign, factor = PLACE.fullmatch(place).groups()
    value = json.loads((ROOT / path).read_text(encoding="utf-8"))
    for key in (listed or single).split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]
    value = FUNCTIONS[function](value) if function else value
    value = 1 / value if inverse else value
    return value * float(factor) if sign == "*" else value / float(factor) if sign else value


ALL = [
    pytest.param(section, figure, id=f"{path.name}-{figure[0]}-{figure[1]}")
    for path in DOCUMENTS
    for section in sections(path.read_text(encoding="utf-8")).values()
    for figure in figures(section)
]


@pytest.mark.parametrize(("section", "figure"), ALL)
def test_a_printed_figure_is_the_measured_one(section, figure):
    printed, path, place = figure
    assert printed in NUMBER.findall(COMMENT.sub("", section)), f"{printed} is not printed in this section"
    decimals = len(printed.partition(".")[2])
    assert f"{read(path, place):.{decimals}f}" == printed.replace(",", ""), (path, place)


@pytest.mark.parametrize("name", COVERED)
def test_every_decimal_of_a_headline_table_has_its_place(name):
    parts = sections((ROOT / name).read_text(encoding="utf-8"))
    for heading in COVERED[name]:
        rows = [line for line in COMMENT.sub("", parts[heading]).splitlines() if line.startswith("|")]
        printed = {number for row in rows for number in NUMBER.findall(row) if "." in number}
        assert printed, heading
        assert printed - {figure[0] for figure in figures(parts[heading])} == set()


def test_the_reader_of_places(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text(json.dumps({"rows": [{"s to go": [3.0, 1.0, 2.5]}, {"n": 4}]}))
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    assert read("a.json", "median(rows.0.s to go)") == 2.5
    assert read("a.json", "1 / rows.1.n") == 0.25
    assert read("a.json", "rows.1.n * 100") == 400
    assert read("a.json", "max(rows.0.s to go) / 2") == 1.5
    assert read("a.json", "len(rows.0.s to go)") == 3
