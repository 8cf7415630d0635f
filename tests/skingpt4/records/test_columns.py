"""Whole blocks of a manifest are taken exactly as their lines are, one by one."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skingpt4.records import columns
from skingpt4.records.columns import COLUMNS, MAX_LINE_WITH_OWN_KEYS, checked_batch
from skingpt4.records.record import RecordError, parse_line
from tests.skingpt4.records.test_record import ROW
from tests.skingpt4.records.test_record import rows as strange_rows

PIECES = [
    "{", "}", '"', ",", ":", "[", "]", "\\", "\n", "\r\n", " ", "\t", "\0", "\x0b", "\x1f", "\u2028", "\ufeff", "é",
    "}\n{", "} {", "\n\n", "\\u0000", "\\ud83d", "\\ude00", "null", "NaN", "-0", "1.0", "true", "007", "99999999999",
    '"x_a":1,', '"x_a":{"b":[1,{"c":2}]},', '"image":"b",', '"imag":"b",', '"Plaque",', '"more":"",',
]  # fmt: skip
pieces = st.one_of(st.sampled_from(PIECES).map(str.encode), st.binary(max_size=2))
edits = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 3), pieces), max_size=2)
own = st.sampled_from([{}, {"x_a": 1}, {"x_a": "t"}, {"x_b": {"c": [1]}}, {"x_a": None}])
present_keys = st.sets(st.sampled_from(list(ROW)[1:]))
BLANK = [
    "nan",
    " NaN",
    "None",
    "n/a",
    "unknown",
    "--",
    "",
    "\u2003",
    "k. A.",
    "entfa\u0308llt",
    "N" * 70,
    "KA",
    "#DIV/0!",
    "0",
    "x\x1f",
]
blanks = st.dictionaries(
    st.sampled_from(["source", "note", "case_id", "patient_id", "disease"]),
    st.sampled_from(BLANK),
    max_size=3,
)
good_rows = st.builds(
    lambda keys, mine, blank: {k: ROW[k] for k in ROW if k in keys | {"image"}} | mine | blank,
    present_keys,
    own,
    blanks,
)


def one_by_one(block):
    lines = enumerate(io.BytesIO(block), 1)
    return [{"line": n, **parse_line(line, f"m, line {n}")} for n, line in lines if line.strip()]


def outcome(read, *args):
    try:
        return read(*args)
    except RecordError as error:
        return str(error)


@given(
    rows=st.lists(st.one_of(good_rows, good_rows, strange_rows), min_size=1, max_size=3),
    edits=edits,
    end=st.sampled_from([b"\n", b"\r\n"]),
    last=st.booleans(),
    escaped=st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_a_block_is_taken_as_its_lines_are(rows, edits, end, last, escaped):
    block = end.join(json.dumps(row, ensure_ascii=escaped).encode() for row in rows) + (end if last else b"")
    for place, gone, piece in edits:
        block = block[: place % len(block)] + piece + block[place % len(block) + gone :]
    actual = outcome(lambda: checked_batch(block, 1, "m").to_pylist())
    assert actual == outcome(one_by_one, block)


@pytest.mark.parametrize("mine", [{}, {"x_class_how": "exact", "x_box": {"corners": [1, 2.5]}, "x_no": None}])
def test_good_rows_are_taken_at_once(mine, monkeypatch):
    monkeypatch.setattr(columns, "parse_line", lambda *args: pytest.fail("line by line"))
    rows = [{"image": "a.png"}, ROW | {"note": "é \u2028"}, ROW | mine | {"concepts": [], "turns": []}]
    block = "".join(json.dumps(row, ensure_ascii=n == 1) + "\n" for n, row in enumerate(rows)).encode()
    assert checked_batch(block, 5, "m").column("line").to_pylist() == [5, 6, 7]
    batch = checked_batch(block, 1, "m")
    assert batch.schema == COLUMNS
    assert batch.to_pylist() == one_by_one(block)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"x_a": {}\n{"image": "a.png"}}', "m, line 2: is not JSON"),
        (b'{"image": "a.png"}{"image": "b.png"}', "m, line 2: is not JSON"),
        (b'{"image": "a.png"}}\n{{"image": "b.png"}', "m, line 2: is not JSON"),
        (b'{"image": "a.png", "concepts": ["Scale", "Scale"]}', "m, line 2: 'concepts' names one twice"),
        (b'{"image": "a.png", "concepts": [null]}', "m, line 2: None is none of SKINCON's"),
        (b'{"image": "a.png", "turns": [{"question": "\x1f\xe2\x80\x83"}]}', "m, line 2: is not JSON"),
        (b'{"image": "a.png", "turns": [{"question": "Why?", "answer": " "}]}', "m, line 2: 'turns'"),
        (b'{"image": "a.png", "turns": [null]}', "m, line 2: 'turns'"),
        (b'{"image": "a\\u0000.png"}', "m, line 2: 'image' must be a path"),
        (b'{"image": "a.png", "imaeg": 1, "x_a": 1}', "m, line 2: 'imaeg' is not a key"),
        (b'{"image": "a.png", "source": "2020-01-01", "split": 3}', "m, line 2: 'split' must be a text"),
        (b'{"image": "a.png", "note": "\xff"}', "m, line 2: is not UTF-8"),
    ],
)
def test_the_first_bad_line_is_named(line, message):
    with pytest.raises(RecordError, match=f"^{message}"):
        checked_batch(b'{"image": "good.png"}\n' + line + b"\n", 1, "m")


@pytest.mark.parametrize("depth", [MAX_LINE_WITH_OWN_KEYS // 8, 100_000])
def test_deeply_nested_keys_of_ones_own_do_no_harm(depth):
    block = b'{"image": "a.png", "x_a": ' + b"[" * depth + b"]" * depth + b"}\n"
    actual = outcome(lambda: checked_batch(block, 1, "m").num_rows)
    assert actual == (1 if depth < 1000 else "m, line 1: is not JSON that can be read (RecursionError)")
