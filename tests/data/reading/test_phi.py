from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from data import phi
from data.reading import phi as reading_phi

HERE = Path(__file__).parent
ROOT = Path(__file__).parents[3]


def wilson(part, whole):
    low, high = binomtest(part, whole).proportion_ci(method="wilson")
    return " to ".join(f"{100 * value:.1f}".removesuffix(".0") for value in (low, high)) + " %"


def test_recall_and_precision_on_notes_never_used_to_change_the_patterns():
    result = reading_phi.measure(reading_phi.read_labelled(HERE / "phi_held_out.txt"))
    assert result.places == 38
    printed = (ROOT / "data/README.md").read_text(encoding="utf-8")
    recall, precision, flagged = (
        wilson(part, whole)
        for part, whole in (
            (result.places_found, result.places),
            (result.findings_right, result.findings),
            (result.clean_notes_flagged, result.clean_notes),
        )
    )
    share = f"{100 * result.places_found / result.places:.1f} %"
    for row in (
        f"| recall: places found | {result.places_found} of {result.places}, {share} | {recall} |",
        f"| of these, covered to the last letter | {result.places_covered} | |",
        f"| precision: findings that are right | {result.findings_right} of {result.findings} | {precision} |",
        f"| clean notes that are flagged | {result.clean_notes_flagged} of {result.clean_notes} | {flagged} |",
    ):
        assert row in printed
    assert result.places_found / result.places >= 0.9
    assert result.findings_right / result.findings >= 0.95
    assert result.clean_notes_flagged <= 1


def test_every_kind_is_found_where_the_patterns_were_made():
    notes = list(reading_phi.read_labelled(HERE / "phi_tuning.txt"))
    assert {place.kind for _, places in notes for place in places} == set(reading_phi.KINDS)
    for text, places in notes:
        assert [(f.kind, f.text) for f in reading_phi.scan(text)] == [(p.kind, p.text) for p in places], text


def test_redact_leaves_the_medicine():
    note = "Mr. John Whitfield (DOB 04/07/1968, MRN 00482913) has a plaque of 12 x 9 mm; call (415) 555-0132."
    assert reading_phi.redact(note) == (
        "[name] (DOB [date_of_birth], MRN [record_number]) has a plaque of 12 x 9 mm; call [phone]."
    )


@pytest.mark.parametrize(
    "note",
    [
        "Patient: Female, 54 years, with plaques.", "Patient: 54-year-old man with plaques.",
        "Patient: Caucasian woman, itchy rash.", "Patient: White male, 40.", "Patient: Male", "Name: Unknown",
        "Patient: African American woman.", "Patient: Psoriasis since 2010", "Patient: Young Woman, pregnant.",
        "Dr. review in 6 weeks.", "Bowen disease on the shin.", "Sr. creatinine normal; methotrexate 7.5 mg.",
        "PASI 12.4, BSA 10-12 %, DLQI 15.", "Lesion 12/8/15 mm at St. Mary ward.",
        "ABCDE rule positive; Breslow 0.8 mm; Clark II.",
    ],
)  # fmt: skip
def test_who_a_patient_is_and_what_was_found_is_no_name(note):
    assert reading_phi.scan(note) == []


@pytest.mark.parametrize(
    "name",
    ["White", "Anna White", "Mr White", "Young", "Anna Female", "Brown, Asia", "Dr M", "AK", "Frau Kind"],
)
def test_surnames_that_are_words_are_names(name):
    assert [f.kind for f in reading_phi.scan(f"Patient: {name}; plaques.")] == ["name"]


@given(st.text(max_size=200))
@settings(deadline=None)
def test_findings_are_ordered_places_of_the_text_and_redacting_ends(text):
    findings = reading_phi.scan(text)
    assert all(text[f.start : f.end] == f.text and f.kind in reading_phi.KINDS for f in findings)
    assert all(a.end <= b.start for a, b in pairwise(findings))
    reading_phi.redact(text)


def test_the_command_says_where_but_never_what(tmp_path, capsys):
    notes = tmp_path / "notes.txt"
    notes.write_text("scaly plaque\nMrs Okafor, tel. 020 7946 0958\n")
    assert phi.main(["scan", str(notes)]) == 3
    out = capsys.readouterr().out
    assert out == "line 2: 1 name, 1 phone\n"
    assert phi.main(["measure", str(HERE / "phi_held_out.txt")]) == 0
    assert "of 38" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "sentence"), [(None, "cannot be read"), ("{nme|Mr X}\n", "line 1: 'nme' is none")]
)
def test_bad_files_get_a_sentence(tmp_path, capsys, text, sentence):
    path = tmp_path / "x.txt"
    if text:
        path.write_text(text)
    assert phi.main(["measure", str(path)]) == 1
    assert sentence in capsys.readouterr().err
