"""The letter to the patient: plain words in every language, the disclaimer, and none of the model's own sentences."""

from dataclasses import replace

import pytest
import textstat

from skingpt4.chat.checks.flags import flags
from skingpt4.chat.exporting import letter
from skingpt4.chat.exporting.record import Consultation, Exchange
from skingpt4.chat.texts import languages, load
from skingpt4.cli import consultation_export
from skingpt4.taxonomy.taxonomy import CLASSES
from tests.skingpt4.chat.exporting.test_export import ANSWER, full_record

MAX_GRADE = 8.0


def record_of(*likely, language="en", confident=False, **more):
    rest = [name for name in CLASSES if name not in likely]
    rows = [(name, 0.6 / (2**place)) for place, name in enumerate(likely)] + [(name, 0.001) for name in rest]
    ranked = [{"class_name": name, "disease": "d", "probability": value} for name, value in rows]
    differential = {"ranked": ranked, "confident": confident, "calibration": "none"}
    texts = load(language)
    facts = {"differential": differential, "language": language, "disclaimer": texts["record.disclaimer"]}
    return full_record(**facts | more)


def grade(text, language):
    """School grade: Flesch-Kincaid in English, the first Wiener Sachtextformel in German."""
    textstat.set_lang(language)
    return (
        textstat.wiener_sachtextformel(text, 1) if language == "de" else textstat.flesch_kincaid_grade(text)
    )


def prose(record):
    """The sentences, each ended, without the number of the letter."""
    texts = [line.text for line in letter.lines(record) if line.kind != "soft"]
    return " ".join(text if text[-1] in ".?!:" else f"{text}." for text in texts)


@pytest.mark.parametrize("language", languages())
@pytest.mark.parametrize("name", CLASSES)
def test_everybody_can_read_it(name, language):
    for confident in (False, True):
        text = prose(record_of(name, language=language, confident=confident))
        assert grade(text, language) <= MAX_GRADE, text


@pytest.mark.parametrize("language", languages())
def test_what_is_said_of_each_class_is_plain_too(language):
    texts = load(language)
    hard = {}
    for name in CLASSES:
        text = texts[f"letter.classes.{name}"]
        if (found := grade(text, language)) > MAX_GRADE:
            hard[name] = found
    assert hard == {}


@pytest.mark.parametrize("language", languages())
@pytest.mark.parametrize("name", CLASSES)
def test_it_neither_reassures_nor_names_a_dose(name, language):
    assert not flags(letter.to_text(record_of(name, language=language)))


@pytest.mark.parametrize("language", languages())
def test_it_says_what_it_is(language):
    texts = load(language)
    text = letter.to_text(record_of(CLASSES[0], language=language))
    assert texts["record.disclaimer"] in text
    assert texts["letter.made"] in text
    assert texts["letter.not_sure"] in text


def test_a_changed_file_does_not_change_the_disclaimer():
    record = replace(record_of(CLASSES[0]), disclaimer="A doctor has checked this.")
    assert "checked" not in letter.to_text(record)


def test_the_models_own_sentences_stay_out():
    record = record_of(CLASSES[0], turns=[Exchange("Was?", ANSWER)])
    text = letter.to_text(record)
    assert "zweite Zeile" not in text
    assert "alert" not in text
    assert "Unterschenkel" not in text


def test_the_likeliest_classes_are_named_in_order_and_the_unlikely_ones_are_not():
    text = letter.to_text(record_of("herpes", "dermatitis"))
    assert text.index("60 out of 100 points: Herpes") < text.index("30 out of 100 points: Dermatitis")
    assert text.count("out of 100 points") == 2
    even = [{"class_name": name, "disease": "", "probability": 0.004} for name in CLASSES]
    assert letter.to_text(record_of(differential={"ranked": even})).count("less than 1 out of 100") == 1


def test_a_model_that_learned_from_drawings_is_never_sure():
    drawn = record_of("herpes", confident=True)
    assert load("en")["letter.no_meaning"] in letter.to_text(drawn)
    assert load("en")["letter.sure"] not in letter.to_text(drawn)
    trained = record_of("herpes", confident=True, model={"checkpoint": "c", "caution": ""})
    assert load("en")["letter.sure"] in letter.to_text(trained)
    assert load("en")["letter.no_meaning"] not in letter.to_text(trained)


def test_without_differential_or_pictures_there_is_still_a_letter():
    text = letter.to_text(Consultation({}))
    assert load("en")["letter.nothing"] in text
    assert letter.to_pdf(Consultation({})).startswith(b"%PDF-")


def test_command(tmp_path, capsys):
    source = tmp_path / "c.json"
    source.write_text(record_of("herpes").to_json(), encoding="utf-8")
    text, paper = tmp_path / "letter.txt", tmp_path / "letter.pdf"
    assert consultation_export.main([str(source), "--letter", str(text)]) == 0
    assert consultation_export.main([str(source), "--letter", str(paper)]) == 0
    assert text.read_text(encoding="utf-8").startswith("A letter about")
    assert paper.read_bytes().startswith(b"%PDF-")
    assert consultation_export.main([str(source), "--letter", str(tmp_path / "letter.docx")]) == 1
    assert ".txt or .pdf" in capsys.readouterr().err
