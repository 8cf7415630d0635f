"""Words for nothing are nothing, in every language of the pages and however a program or person writes them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import skingpt4.chat
from skingpt4.records.blanks import BLANK_WORDS, is_blank, text_or_none
from skingpt4.records.comparing.duplicates import clusters, links
from skingpt4.records.comparing.identity import Keys
from skingpt4.records.manifest import read_manifest
from skingpt4.records.record import RecordError, parse_line
from skingpt4.taxonomy.taxonomy import CONCEPTS, lexicon

LANGUAGES = {path.stem for path in (Path(skingpt4.chat.__file__).parent / "languages").glob("*.yaml")}
WRITTEN = [
    "nan", "NaN", "NaT", "None", "null", "NULL", "n/a", "N/A", "n. a.", "#N/A", "<NA>", "NA", "-", "--", "—", "?",
    "???", "...", "unknown", "Unknown.", "(unknown)", "not known", "UNK", "", "  ", "[]", "~", "unbekannt", "k. A.",
    "k.A.", "keine Angabe", "ENTFÄLLT", "\u200b", "#NV", "#REF!", "#DIV/0!",
    "#name?", "entfa\u0308llt",
]  # fmt: skip
SAYING = [
    "0", "-1", "nv", "name", "value", "0/0", "no", "No", "nein", "KA", "OA", "AN", "Nana", "nan1", "none of these",
    "unknown primary", "a", "皮", "\N{GRINNING FACE}", "?x", "unknown" * 20,
]  # fmt: skip


@pytest.mark.parametrize("text", WRITTEN)
def test_words_for_nothing(text):
    assert is_blank(text)
    assert text_or_none(text) is None


@pytest.mark.parametrize("text", SAYING)
def test_what_says_something(text):
    assert text_or_none(text) == text


def test_every_language_of_the_pages_has_its_words():
    assert set(BLANK_WORDS) >= LANGUAGES
    assert all(BLANK_WORDS[language] for language in LANGUAGES)


def test_no_disease_or_concept_is_a_word_for_nothing():
    names = [*CONCEPTS, *(term.name for term in lexicon().terms.values())]
    assert [name for name in names if is_blank(name)] == []


@given(
    st.sampled_from([word for words in BLANK_WORDS.values() for word in words]),
    st.sampled_from([str, str.upper, str.title]),
    st.sampled_from(["{}", " {} ", "({})", "<{}>", "'{}'", "{}.", "[{}]", "\t{}\n", "--{}--"]),
)
def test_case_brackets_and_spaces_do_not_matter(word, case, around):
    assert is_blank(around.format(case(word)))


@given(st.text(st.characters(categories=["L", "N", "Zs"]), min_size=1))
def test_a_text_with_a_digit_says_something(text):
    assert not is_blank(f"{text}7")


def manifest_of(folder, rows):
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_manifest(path)


def test_a_manifest_teaches_no_word_for_nothing_and_ties_nothing_by_it(tmp_path):
    rows = [
        {"image": f"{n}.png", "note": "nan", "disease": "None", "patient_id": "unknown", "case_id": word,
         "turns": [{"question": "Why?", "answer": "n/a"}, {"question": "Itch?", "answer": "Yes."}]}
        for n, word in enumerate(["-", "-", "7", "7"])
    ]  # fmt: skip
    records = manifest_of(tmp_path, rows)
    assert {(r.note, r.disease, r.patient_id) for r in records} == {(None, None, None)}
    assert [r.case_id for r in records] == [None, None, "7", "7"]
    assert {r.turns for r in records} == {(("Itch?", "Yes."),)}
    numbers = clusters(links(Keys(records))).tolist()
    assert numbers[0] != numbers[1]
    assert numbers[2] == numbers[3]


def test_a_key_that_a_line_has_twice_is_refused_by_name(tmp_path):
    line = b'{"image": "a.png", "note": "Silvery plaques.", "note": ""}'
    with pytest.raises(RecordError, match="m, line 1: has the key 'note' twice"):
        parse_line(line, "m, line 1")
    (tmp_path / "m.jsonl").write_bytes(line + b"\n")
    with pytest.raises(RecordError, match="line 1: has the key 'note' twice"):
        read_manifest(tmp_path / "m.jsonl")
