"""Printed figures against the files they were measured in; `tests/support/figures.py` explains the comments."""

import json
import re

import pytest

from benchmarks.speed.summary import PAIRS
from tests.support import figures as reader
from tests.support.figures import DOCUMENTS, NUMBER, ROOT, TABLE, Figure, body, figures, given, read, sections

TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}
ALL = [
    pytest.param(section, figure, id=f"{name}-{figure.printed}-{figure.path}-{figure.place}")
    for name, text in TEXTS.items()
    for section in sections(text).values()
    for figure in figures(section)
]
TABLES = [
    pytest.param(*found, id=f"{name}-{found[1]}")
    for name, text in TEXTS.items()
    for found in TABLE.findall(text)
]
IN_TABLES = {path for t in TABLES for path in reader.files(t.values[0])}
IN_TABLES |= {f"benchmarks/results/{name}.json" for name in PAIRS}
CITED = sorted({p.values[1].path for p in ALL} | {path for path in IN_TABLES if (ROOT / path).is_file()})
# Of clean commits, from the time before results had a date; what is measured again leaves this list too.
BEFORE_DATES = {
    f"benchmarks/results/{name}.json"
    for name in ("chat_bfloat16", "chat_lookup", "chat_no_lookup", "cpu", "cpu_avx2", "quality")
}
PROVENANCE = ("command", "commit", "date", "hardware", "versions")
# Pages in which every number with a decimal point or a measure's unit is marked, given, or in a program's table.
COVERED = ["README.md", *(f"docs/{name}.md" for name in (
    "performance", "memory", "parity", "known_answer", "placement", "clinic", "engines", "weights", "encoders",
))]  # fmt: skip
DECIMALS_COVERED = ["docs/arms.md", "docs/deploy.md", "docs/training.md", "data/README.md", "benchmarks/README.md",
                    "skingpt4/weights/bundled/README.md"]  # fmt: skip
UNIT = re.compile(
    r"\s?(?:%|x(?= [(|])|ms\b|s\b|[KMG]i?B\b|T?FLOP|GFLOP|seconds\b|minutes\b|hours\b|tokens/s|samples/s|points\b)"
)
# Code, and numbers that are names: licences, papers, versions of Python, capabilities of cards, sizes of an <img>.
NAMES = re.compile(
    r"```.*?```|`[^`\n]*`|<img[^>]*>|Apache 2\.0|CC[ -]BY[-\w]* \d\.0|arXiv [\d.]+|doi \S+|Python 3\.\d+|"
    r"capability \d\.\d",
    re.S,
)


@pytest.mark.parametrize(("section", "figure"), ALL)
def test_a_printed_figure_is_the_measured_one(section, figure):
    assert figure.printed in NUMBER.findall(body(section)), f"{figure.printed} is not printed in this section"
    assert figure.measured() == figure.printed, (figure.path, figure.place)


@pytest.mark.parametrize(("path", "module", "function", "printed"), TABLES)
def test_a_table_is_what_its_program_writes(path, module, function, printed, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert printed == reader.table(path, module, function)


# Named by a result, and no commit of this repository.
UNKNOWN_COMMIT = "ee73874c2eae81e59da6d98e8f012383581d646c"


def is_of_a_clean_commit(path):
    """Whether a result has its provenance, and nothing but clean commits in it."""
    text = (ROOT / path).read_text(encoding="utf-8")
    found = reader.everywhere(json.loads(text), reader.COMMIT_KEYS)
    clean = [bool(re.fullmatch(r"[0-9a-f]{40}", commit)) and commit != UNKNOWN_COMMIT for commit in found]
    needed = PROVENANCE[:2] if path in BEFORE_DATES else PROVENANCE
    return bool(found) and all(clean) and all(f'"{key}":' in text for key in needed)


@pytest.mark.parametrize("path", CITED)
def test_a_cited_result_is_of_a_clean_commit(path):
    assert is_of_a_clean_commit(path)


def test_every_result_is_cited():
    """Those of docs/scale.md and docs/reliability.md have programs and tests of their own."""
    others = {"benchmarks/results/scale.json", "benchmarks/results/records_scale.json"}
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "benchmarks/results").glob("*.json")}
    assert there - others - set(CITED) == set()


def test_what_was_measured_again_is_no_longer_listed():
    assert [path for path in sorted(BEFORE_DATES) if '"date":' in (ROOT / path).read_text("utf-8")] == []


@pytest.mark.parametrize("name", [*COVERED, *DECIMALS_COVERED])
def test_every_number_says_where_it_comes_from(name):
    missing = []
    for heading, section in sections(re.sub(r"^```.*?^```", "", TEXTS[name], flags=re.S | re.M)).items():
        known = {figure.printed for figure in figures(section) + given(section)}
        text = NAMES.sub("", body(section))
        for match in NUMBER.finditer(text):
            has_unit = name in COVERED and UNIT.match(text, match.end())
            if ("." in match[0] or has_unit) and match[0] not in known:
                missing.append(f"{heading}: {text[max(0, match.start() - 40) : match.end() + 15]!r}")
    assert missing == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_is_given_is_printed_and_has_a_reason(name):
    for section in sections(TEXTS[name]).values():
        for figure in given(section):
            assert figure.printed in NUMBER.findall(body(section)), f"{figure.printed} is not printed here"
            assert len(figure.place) > 3, figure
            assert "not on file" not in figure.place or name == "README.md"  # the headline, until it is
            for page in re.findall(r"\S+\.md", figure.place):
                assert figure.printed in NUMBER.findall(TEXTS[page]), (
                    f"{page} does not print {figure.printed}"
                )


def test_the_reader_of_places(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text(
        json.dumps({"rows": [{"s to go": [3.0, 1.0, 2.5]}, {"n": 4}], "e": 2e-5})
    )
    monkeypatch.setattr(reader, "ROOT", tmp_path)
    assert read("a.json", "median(rows.0.s to go)") == 2.5
    assert read("a.json", "1 / rows.1.n") == 0.25
    assert read("a.json", "rows.1.n * 100") == 400
    assert read("a.json", "max(rows.0.s to go) / 2") == 1.5
    assert read("a.json", "len(rows.0.s to go)") == 3
    assert read("a.json", "max(rows.0.s to go) - rows.1.n * 2") == -2
    assert Figure("2.0e-5", "a.json", "e").measured() == "2.0e-5"
    assert Figure("4,000", "a.json", "rows.1.n * 1000").measured() == "4,000"


def test_numbers_are_rewritten_where_they_are_printed(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text(json.dumps({"x": 3.14159, "n": 7, "m": 1.5, "k": 2.5}))
    monkeypatch.setattr(reader, "ROOT", tmp_path)
    page = "# A\n2.00 x of 5 in 5.\n<!-- figures of a.json: 2.00 = x; 5 = n -->\n# B\n2.00\n"
    new, left = reader.rewritten(page)
    assert new == page.replace("2.00", "3.14", 1).replace(": 2.00", ": 3.14")
    assert left == ["5 is now 7"]
    _, left = reader.rewritten("# A\n9.9 and 9.9\n<!-- figures of a.json: 9.9 = m; 9.9 = k -->\n")
    assert left == ["9.9 is now 1.5 or 2.5"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_table_comment_has_its_end(name):
    assert TEXTS[name].count("<!-- table ") == len(TABLE.findall(TEXTS[name]))


@pytest.mark.parametrize("body", ["", "| old |\n"])
def test_an_empty_table_is_filled_and_takes_nothing_of_the_next(body, monkeypatch):
    monkeypatch.setattr(reader, "table", lambda path, module, function: f"| {function} |")
    end = "<!-- end of table -->\n"
    text = f"<!-- table by m:a -->\n{body}{end}between\n<!-- table by m:b -->\n| x |\n{end}"
    new = reader.rewritten(text)[0]
    assert [line for line in new.splitlines() if line[0] != "<"] == ["| a |", "between", "| b |"]
    assert reader.rewritten(new)[0] == new
