"""The record format: the reader and the published schema agree, and every refusal names what is wrong."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from skingpt4.records.record import RecordError, check_row, parse_line, record_of
from skingpt4.records.schema import KEYS, json_schema
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS

SCHEMA_PATH = Path(__file__).parents[3] / "data" / "record.schema.json"
SCHEMA = json.loads(SCHEMA_PATH.read_text())
VALID = Draft202012Validator(SCHEMA)

ROW = {
    "image": "images/1.png",
    "sha256": "9f" * 32,
    "phash": "e0f8c4d2b1a09784",
    "width": 800,
    "height": 600,
    "source": "phantoms",
    "split": "train",
    "concepts": ["Plaque", "Scale"],
    "disease": "psoriasis",
    "class": "psoriasis_and_lichen_planus",
    "fitzpatrick": 34,
    "body_site": "forearm",
    "note": "Silvery plaques.",
    "caption": "Scaly plaques on a forearm.",
    "turns": [{"question": "Does it itch?", "answer": "It may."}],
    "rejected": [{"question": "Does it itch?", "answer": "Never."}],
    "case_id": "c1",
    "patient_id": "p1",
    "licence": "Apache-2.0",
    "phi": "redacted",
}

# Values near what a key takes, and far from it.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.one_of(
    st.integers(-1, 60),
    st.sampled_from([3.0, 12.0, 3.5, 1e300, -0.0, 2**31 - 1, 2**31, 10**30, 34]),
    st.booleans(),
)
hexes = st.from_regex(r"[0-9a-fA-F]{15,17}\n?|[0-9a-f]{63,65}\n?", fullmatch=True)
turn = st.dictionaries(st.sampled_from(["question", "answer", "more"]), st.one_of(texts, st.none()))
whole_turn = st.fixed_dictionaries({"question": texts, "answer": st.one_of(texts, st.just("\x1f\u2003"))})
lists = st.lists(st.one_of(st.sampled_from([*CONCEPTS[:4], "plaque"]), numbers, turn, whole_turn), max_size=3)
names = st.sampled_from([*CLASSES, "others", "allowed", "redacted", "acne", "", "a\0b"])
values = st.one_of(st.none(), texts, numbers, hexes, lists, names, st.sampled_from(list(ROW.values())))
keys = st.sampled_from([*KEYS, *KEYS, "x_mine", "diagnosis", "X_"])
rows = st.builds(
    lambda changes, gone: {k: v for k, v in (ROW | changes).items() if k not in gone},
    st.dictionaries(keys, values, max_size=3),
    st.sets(keys, max_size=4),
)


@given(row=st.one_of(rows, values))
@settings(max_examples=300, deadline=None)
def test_the_reader_takes_what_the_schema_takes_and_nothing_else(row):
    try:
        parse_line(json.dumps(row).encode(), "m, line 1")
        taken = True
    except RecordError:
        taken = False
    assert taken == VALID.is_valid(row)


def test_the_published_schema_is_the_one_that_the_table_gives():
    written = SCHEMA_PATH.read_text()
    assert written == json_schema(), "run: python -m skingpt4.records.schema > data/record.schema.json"


def test_the_schema_is_valid_and_holds_the_vocabularies():
    Draft202012Validator.check_schema(SCHEMA)
    assert tuple(SCHEMA["properties"]) == KEYS
    assert SCHEMA["properties"]["concepts"]["items"]["enum"] == list(CONCEPTS)
    assert VALID.is_valid(ROW)
    assert VALID.is_valid({"image": "a.png"})


def test_a_full_row_becomes_a_record():
    record = record_of(parse_line(json.dumps(ROW).encode(), "m, line 1"), Path("folder"))
    assert record.image_path == Path("folder/images/1.png")
    assert record.class_name == ROW["class"]
    assert record.concepts == ("Plaque", "Scale")
    assert record.turns == (("Does it itch?", "It may."),)
    assert record.rejected == (("Does it itch?", "Never."),)
    same = set(KEYS) - {"image", "class", "concepts", "turns", "rejected"}
    assert {key: getattr(record, key) for key in same} == {key: ROW[key] for key in same}


def test_what_is_not_said_is_unknown_and_own_keys_pass():
    checked = check_row({"image": "a.png", "x_camera": {"any": "thing"}}, "m, line 1")
    assert checked == {"image": "a.png", **dict.fromkeys(KEYS[1:])}
    record = record_of(checked, Path("f"))
    assert (record.concepts, record.turns, record.note) == (None, (), None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": ""}, "'image' must be a path"),
        ({"image": None}, "a JSON object with at least 'image'"),
        ({"diagnosis": "acne"}, r"'diagnosis' is not a key of a record; .*begin with 'x_'"),
        ({"concept": ["Plaque"]}, "'concept' is not a key of a record; did you mean 'concepts'"),
        ({"sha256": "9F" * 32}, "'sha256' must be 64 hex digits"),
        ({"phash": "e0f8"}, "'phash' must be 16 hex digits"),
        ({"width": 0}, "'width' must be a number of pixels, found 0"),
        ({"height": True}, "'height' must be a number of pixels, found True"),
        ({"fitzpatrick": "III"}, r"'fitzpatrick' must be 1 to 6, a pair of DDI .*found 'III'"),
        ({"fitzpatrick": True}, "'fitzpatrick' must be"),
        ({"class": "acne"}, "'acne' is none of the classes"),
        ({"phi": "yes"}, "'phi' must be one of allowed, redacted or null, found 'yes'"),
        ({"concepts": "Plaque"}, "'concepts' must be a list"),
        ({"concepts": ["Plaqe"]}, "'Plaqe' is none of SKINCON's 48 concepts; did you mean 'Plaque'"),
        ({"concepts": ["Scale", "Scale"]}, "'concepts' names one twice"),
        ({"turns": [{"question": "Why?"}]}, "'turns' must be a list of"),
        ({"turns": [{"question": "Why?", "answer": " "}]}, "none of them empty"),
        ({"patient_id": 17}, "'patient_id' must be a text, found 17"),
    ],
)
def test_a_refusal_names_place_key_and_value(change, message):
    with pytest.raises(RecordError, match=rf"^m\.jsonl, line 7: .*{message}"):
        check_row(ROW | change, "m.jsonl, line 7")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"image": "\xe9.png"}', "is not UTF-8"),
        (b'{"image": "a.png"', "is not JSON"),
        (b"[" * 100_000, "is not JSON that can be read"),
        (b'{"image": "a.png", "width": ' + b"9" * 5000 + b"}", "is not JSON that can be read"),
        (b'{"image": "a.png", "note": "\\ud83d"}', "surrogate"),
    ],
)
def test_lines_that_are_no_json_text(line, message):
    with pytest.raises(RecordError, match=rf"^m, line 1: .*{message}"):
        parse_line(line, "m, line 1")


def test_an_escaped_pair_is_text():
    row = parse_line(b'{"image": "a.png", "note": "\\ud83d\\ude00"}', "m, line 1")
    assert row["note"] == "\N{GRINNING FACE}"
