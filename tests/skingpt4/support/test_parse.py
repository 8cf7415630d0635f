"""JSON and YAML of strangers: a value, or one short reason, and soon."""

import contextlib
import json
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from skingpt4.support.parse import (
    MAX_DEPTH,
    ParseError,
    Plain,
    parse_json,
    parse_yaml,
    plain_texts,
    plain_values,
    read_json_object,
)

ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
MERGES = "a0: &a0 {k: x}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60))
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 3000))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ALIASES, "aliases that stand for too many"),
        (MERGES, "aliases that stand for too many"),
        (CHAIN, "aliases that stand for too many"),
        ("[" * 200_000, "nested too deep"),
        ("{a: " * 20_000, "nested too deep"),
        ("- " * 20_000, "nested too deep"),
        ("a: &a [*a]", "contains itself, line 1 column 8"),
        ("a: &a {b: *a}", "contains itself"),
        ("a: 1\nb: 2\na: 3", "the key 'a' stands here twice"),
        ("a: " + "9" * 6000, "cannot be read as a value"),
        ("a: !!int abc", "cannot be read as a value"),
        ("a: !!int ''", "cannot be read as a value"),
        ("!!python/object/apply:os.system [x]", "the tag .*os.system is not read"),
        ("a: !!binary ====", "the tag .*binary is not read"),
        ("? [a]\n: b", "a key must be one word"),
        ("a: [1", "expected ',' or ']'.*, line 1 column 6"),
        ("---\na\n---\nb", "another document"),
        ("a\x00b", "the character #x0000 at position 1 is not allowed"),
        ('"\\ud800"', "surrogate"),
        ('"\\U99999999"', "stands for no character"),
        ("!!map [a]", "lines were expected"),
        ("<<: 3", "merging"),
    ],
)  # fmt: skip
def test_yaml_that_no_one_can_use_ends_soon_in_one_reason(text, reason):
    started = time.monotonic()
    with pytest.raises(ParseError, match=reason) as caught:
        parse_yaml(text)
    assert time.monotonic() - started < 20, "on a busy machine; without a bound it would never end"
    assert len(str(caught.value).splitlines()) == 1


def test_words_of_yaml_1_2():
    text = (
        "{a: no, b: 1e-6, c: 010, d: 2026-11-28, e: 12:30, f: True, g: null, no: x, 1: y, h: [.5, 0x1f, '1']}"
    )
    read = parse_yaml(text)
    assert plain_values(read) == {
        "a": "no", "b": 1e-6, "c": "010", "d": "2026-11-28", "e": "12:30", "f": True, "g": None, "no": "x", "1": "y",
        "h": [0.5, 31, "1"],
    }  # fmt: skip
    assert plain_texts(read)["h"] == [".5", "0x1f", "1"]
    assert read["f"] == Plain("True", True)


def test_merge_keys_and_aliases_of_an_honest_size_are_read():
    read = parse_yaml("base: &base {a: x, b: y}\nown: {<<: *base, b: z}\nlist: [*base, *base]")
    assert read["own"] == {"a": "x", "b": "z"}
    assert read["list"] == [{"a": "x", "b": "y"}] * 2


letters = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")))
keys = st.text(st.characters(codec="ascii", exclude_categories=("Cc",)), min_size=1)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | letters,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_what_was_written_is_read_back(value):
    assert parse_json(json.dumps(value)) == value
    read = plain_values(parse_yaml(yaml.safe_dump(value, allow_unicode=True)))
    assert read == value


@given(st.text(max_size=60) | st.text("[]{}:,&*!|>-'\"#%@ \n\ta0~<", max_size=60))
def test_any_text_is_a_value_or_a_reason(text):
    for parse in (parse_yaml, parse_json):
        with contextlib.suppress(ParseError):
            parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested too deep"),
        ("9" * 5000, "thousands of digits"),
        ('"\\ud800"', "surrogate"),
        ('{"\\udfff": 1}', "surrogate"),
        (b"\xff", "UTF-8"),
        ("", "Expecting value, line 1 column 1"),
        ("{} x", "Extra data"),
    ],
)  # fmt: skip
def test_json_that_no_one_can_use(text, reason):
    with pytest.raises(ParseError, match=reason):
        parse_json(text)
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert parse_json("[[]," * 10 + "[]" + "]" * 10)


@pytest.mark.parametrize(
    ("text", "found"), [("[]", "a list"), ("3", "a number"), ("null", "null"), ('"x"', "a text")]
)
def test_an_object_is_expected(text, found, tmp_path):
    path = tmp_path / "card.json"
    path.write_text(text)
    with pytest.raises(ParseError, match=f"an object was expected, found {found}"):
        read_json_object(path)


def test_a_file_name_may_hold_bytes_that_are_not_utf8_where_names_are_read():
    assert parse_json('"L\\udce4sion"', file_names=True) == "L\udce4sion"
    for text in ('"L\\udce4sion"', '"\\ud83d"'):
        with pytest.raises(ParseError, match="half of a surrogate pair"):
            parse_json(text)
    with pytest.raises(ParseError, match="half of a surrogate pair"):
        parse_json('"\\ud83d"', file_names=True)
