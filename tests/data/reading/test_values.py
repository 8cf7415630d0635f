"""Cells are read however people and programs write them."""

import ast
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.reading.fields import Row
from data.reading.rows import RowError
from data.reading.values import (
    CONFLICTING,
    LIKELIEST,
    ONE_CLASS,
    UNDECIDED,
    UNREADABLE,
    listed,
    parse_diagnosis,
    parse_skin_type,
    whole_number,
)

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)


@pytest.mark.parametrize(
    ("text", "number"),
    [("4", 4), ("4.0", 4), ("4,0", 4), (" 4 ", 4), ("-1", -1), ("4.", 4), ("4.5", None), ("²", None), ("٤", None),
     ("1e3", None), ("", None), ("4 5", None), ("0x1", None)],
)  # fmt: skip
def test_whole_numbers(text, number):
    assert whole_number(text) == number


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("3", 3), ("III", 3), ("Type vi", 6), ("2.0", 2), ("3,0", 3), ("-1", None), ("", None), ("unknown", None),
        ("34", 34), ("FST3", 3), ("FST III", 3), ("fst_4", 4), ("type 4", 4), ("Typ IV", 4), ("Hauttyp II", 2),
        ("Fitzpatrick skin type 5", 5), ("Fitzpatrick V", 5), ("III-IV", 34), ("III–IV", 34), ("III, IV", 34),
        ("1/2", 12),
        ("5 to 6", 56), ("V bis VI", 56), ("I or II", 12), ("3-3", 3), ("['FST3']", 3), ("FST3; FST3", 3),
        ("FST3; FST4", 34), (["FST1", "FST2"], 12), ("FST_UNKNOWN", None), (4, 4), (4.0, 4), (float("nan"), None),
        ("['FST2' nan]", 2), ("56.0", 56), ("12", 12), ("Type I.", 1), ("phototype: 2", 2), (None, None),
    ],
)  # fmt: skip
def test_skin_types(value, number):
    assert parse_skin_type(value) == (number, None)


@pytest.mark.parametrize(
    ("value", "remark"),
    [
        ("II-III", CONFLICTING), ("1-3", CONFLICTING), ("FST2; FST5", CONFLICTING), ("1-6", CONFLICTING),
        ("['FST1', 'FST4']", CONFLICTING), ("12-34", CONFLICTING), ("0", UNREADABLE), ("7", UNREADABLE),
        ("VII", UNREADABLE), ("dark", UNREADABLE), ("13", UNREADABLE), ("²", UNREADABLE), ("3.5", UNREADABLE),
        ("IIII", UNREADABLE), ("2024-03-04", UNREADABLE), ({"a": 1}, UNREADABLE), ("3-", UNREADABLE),
    ],
)  # fmt: skip
def test_what_is_no_skin_type_is_unknown_with_a_remark(value, remark):
    assert parse_skin_type(value) == (None, remark)


@given(st.text(st.sampled_from("FSTfst IViv123456.,;-/|[]'0type_nan"), max_size=12) | st.text() | st.floats())
def test_a_skin_type_never_refuses_a_row(value):
    number, remark = parse_skin_type(value)
    assert number in (None, 1, 2, 3, 4, 5, 6, 12, 34, 56)
    assert number is None or remark is None


NAMES = st.lists(
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8).map(lambda t: f"{t}7")
)


@given(st.text(st.sampled_from("[](){}'\"\\ ,a1\nnNoe:x"), max_size=16))
def test_any_text_is_a_list_of_texts_or_a_sentence(text):
    row = Row({"x": text})
    for read in (row.paths, row.concepts, row.turns, row.diagnosis, row.skin_type, row.answers):
        with suppress(RowError):
            read("x")


@given(NAMES)
def test_a_list_is_read_in_every_notation(names):
    names = [name.strip() for name in names]
    assert listed("images", names) == names
    assert listed("images", json.dumps(names)) == names
    assert listed("images", repr(names)) == names
    if len(names) > 1:
        assert listed("images", repr(tuple(names))) == names
        assert (
            listed("images", f"[{' '.join(map(repr, names))}]") == names
        )  # numpy's, which Python would join


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("a.jpg;b.jpg", ["a.jpg", "b.jpg"]), ("a.jpg|b.jpg", ["a.jpg", "b.jpg"]), ("a, b.jpg", ["a, b.jpg"]),
        ("[a.jpg, b.jpg]", ["a.jpg", "b.jpg"]), ("['a.jpg'\n 'b.jpg']", ["a.jpg", "b.jpg"]), ("[]", []), ("", None),
        ("nan", None), ("['a.jpg', nan]", ["a.jpg"]), ("['a.jpg', None]", ["a.jpg"]), ("[1].jpg", ["[1].jpg"]),
        ("(1).jpg", ["(1).jpg"]), ('["a.jpg", 1]', ["a.jpg", "1"]), ("[1, 2]", ["1", "2"]),
        ("['a.jpg', 2.0]", ["a.jpg", "2"]), ("['a\n.jpg', 'b\\N']", ["a\n.jpg", "b\\N"]),
        ('["a;b.jpg"]', ["a;b.jpg"]), ("it's.jpg", ["it's.jpg"]), ("['it\\'s.jpg']", ["it's.jpg"]), ("[nan]", None),
        ("{'a.jpg'}", ["a.jpg"]),
    ],
)  # fmt: skip
def test_lists(text, items):
    assert listed("images", text) == items


@pytest.mark.parametrize("value", [[["a"]], [{"a": 1}], {"a": 1}, '[["a"]]', '[{"a": 1}]'])
def test_a_list_of_lists_is_no_list_of_texts(value):
    with pytest.raises(RowError, match="'images' is not a text but a"):
        listed("images", value)


HOSTILE = {
    "open lists": "[" * 100_000, "open objects": "{" * 100_000, "signs": "[" + "-" * 100_000 + "1]",
    "deep objects": "{'a': " * 5000, "deep lists": "[" * 5000 + "]" * 5000, "infinity": "{'a': 1e999999}",
    "no end": "[" + "'a' " * 50_000, "digits": "{" + "9" * 10_000 + ": 1}", "quotes": "['" + "\\'" * 50_000,
    "brackets": "{'a':" + "(" * 150 + ")" * 150 + "}",
}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_texts_that_are_made_to_break_a_parser_end_in_a_sentence(text):
    row = Row({"x": text})
    for read in (row.paths, row.concepts, row.turns, row.diagnosis, row.skin_type, row.answers):
        with suppress(RowError):
            read("x")


@pytest.mark.parametrize(
    ("value", "disease", "class_name", "remark"),
    [
        ("psoriasis", "psoriasis", "psoriasis_and_lichen_planus", None),
        ("nv", "melanocytic nevus", "melanoma_nevi_moles", None),
        ("BKL", "benign keratosis", "benign_tumors", None),
        ("UNK", None, None, None),
        ("nan", None, None, None),
        ("{'Eczema': 0.41, 'Impetigo': 0.18}", "Eczema", "dermatitis", LIKELIEST),
        ("{'Eczema': 0.5, 'Impetigo': 0.5}", None, None, UNDECIDED),
        ("{'Eczema': 0.5, 'Allergic Contact Dermatitis': 0.5}", None, "dermatitis", ONE_CLASS),
        ("{'Eczema': 1.0}", "Eczema", "dermatitis", None),
        ("{}", None, None, None),
        ("['Eczema']", "Eczema", "dermatitis", None),
        ("['Eczema', 'Eczema']", "Eczema", "dermatitis", None),
        ("['Eczema', 'Psoriasis']", None, None, UNDECIDED),
        ('{"psoriasis": 2, "nv": 1}', "psoriasis", "psoriasis_and_lichen_planus", LIKELIEST),
        ({"psoriasis": 1}, "psoriasis", "psoriasis_and_lichen_planus", None),
        (["nv", "NEV"], "melanocytic nevus", "melanoma_nevi_moles", None),
        ("a rare thing; or not", "a rare thing; or not", None, None),
        ("[?] psoriasis", "[?] psoriasis", "psoriasis_and_lichen_planus", None),
    ],
)
def test_diagnoses(value, disease, class_name, remark):
    result = parse_diagnosis("diagnosis", value)
    assert (result.disease, result.class_name, result.remark) == (disease, class_name, remark)


@pytest.mark.parametrize("value", ["{'Eczema': 'high'}", "{Eczema: 1}", [["Eczema"]], {"Eczema": None}])
def test_what_is_no_diagnosis(value):
    with pytest.raises(RowError, match="'diagnosis'"):
        parse_diagnosis("diagnosis", value)


@given(st.dictionaries(st.sampled_from(["Eczema", "Psoriasis", "Acne", "nan"]), st.floats(0, 1), max_size=4))
def test_weights_in_pythons_and_jsons_notation_are_the_same(weights):
    assert ast.literal_eval(repr(weights)) == weights
    read = [parse_diagnosis("x", value) for value in (weights, repr(weights), json.dumps(weights))]
    assert read[0] == read[1] == read[2]


def test_a_row_counts_words_for_nothing_by_key():
    row = Row({"note": "nan", "body_site": "", "case_id": float("nan"), "class": "None", "fitzpatrick": "-",
               "turns": [{"question": "Why?", "answer": "n/a"}], "patient_id": "7", "concepts": "none"})  # fmt: skip
    read = [row.text("note"), row.text("body_site"), row.text("case_id"), row.class_name("class"), row.text("x"),
            row.skin_type("fitzpatrick"), row.turns("turns"), row.concepts("concepts")]  # fmt: skip
    assert read == [None] * 8
    assert row.text("patient_id") == "7"
    counted = dict.fromkeys(("note", "case_id", "class", "fitzpatrick", "turns", "concepts"), 1)
    assert row.blanks == counted


@pytest.mark.parametrize("text", ["1.23457E+11", "1,23E+15", "4E+12"])
def test_an_identifier_that_excel_rounded_is_refused(text):
    with pytest.raises(
        RowError, match=r"'patient_id' is .* a spreadsheet rounded it; format the column as text"
    ):
        Row({"patient_id": text}).identifier("patient_id")
    assert Row({"note": text}).text("note") == text


@pytest.mark.parametrize("text", ["123457000000", "1E5", "p1.2E+3x", "E+11", "12.5"])
def test_other_identifiers_stay_as_they_are(text):
    assert Row({"case_id": text}).identifier("case_id") == text


def test_answers_keep_their_places():
    assert Row({"r": "['It is herpes; or not.', nan, 'Rest.']"}).answers("r") == [
        "It is herpes; or not.",
        "",
        "Rest.",
    ]
    assert Row({"r": "One; two."}).answers("r") == ["One; two."]
    assert Row({"r": "nan"}).answers("r") == []
