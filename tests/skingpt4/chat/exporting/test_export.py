"""Exports of a consultation: nothing is lost or run as code, and "not a diagnosis" is on every page."""

import html
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from skingpt4.chat.exporting import record
from skingpt4.chat.exporting.export import to_html, to_pdf
from skingpt4.chat.exporting.record import Consultation, Exchange, ShownPicture
from skingpt4.chat.texts import load
from skingpt4.checkpoints.identity import DEMONSTRATION, UNKNOWN, UNTRAINED
from skingpt4.cli import consultation_export
from skingpt4.support.pdf import Paper
from skingpt4.taxonomy.taxonomy import CLASSES
from tests.support.tiny import make_picture

ENGLISH, GERMAN = (load(code).table["record"] for code in ("en", "de"))
ANSWER = 'Größe 3 µm, αβγ: <script>alert(1)</script> & "so"\n- zweite Zeile'


def full_record(**changes) -> Consultation:
    ranked = [{"class_name": name, "disease": "d", "probability": 0.1} for name in CLASSES]
    facts = {
        "model": {"checkpoint": "run/200", "sha256": "cd" * 32, "demonstration": True, "caution": "Only drawn."},
        "pictures": [
            ShownPicture.of(
                make_picture(1), "close",
                {"score": 0.41, "problems": [{"kind": "blurred", "measure": 3.25, "threshold": 7.0}]}, True,
            )
        ],
        "history": {"site": "Unterschenkel", "medication": "<b>none</b>", "trained": False},
        "turns": [
            Exchange("Was ist das?", ANSWER, True, {"seed": 7, "temperature": 0.5}, 1.25, 12, "Leg. Was ist das?")
        ],
        "differential": {
            "ranked": ranked, "concepts": [{"name": "Plaque", "probability": 0.8125}], "confident": False,
            "threshold": 0.55, "red_flags": ["Bleeding: today."], "next_steps": ["Show it."], "calibration": "none",
        },
    }  # fmt: skip
    return Consultation(**facts | changes)


class Texts(HTMLParser):
    """Visible texts and the elements of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] != "style":
            self.texts.append(data)


def everything(record: Consultation) -> list[str]:
    """What every export must say."""
    return [
        record.id, record.created, record.software, record.pictures[0].sha256, "close", "0.41",
        "out of focus. Measure 3.25",
        "threshold 7", ENGLISH["overridden"], "Unterschenkel", ENGLISH["untrained_history"], "Was ist das?",
        "Leg. Was ist das?", "seed 7", "temperature 0.5", "1.2 s", "12 tokens", ENGLISH["stopped"],
        ENGLISH["not_confident"], "81.2 %", "55.0 %", ENGLISH["uncalibrated"], "Bleeding: today.", "Show it.",
        "run/200", "cd" * 32, "Only drawn.", record.disclaimer, ENGLISH["foot"],
    ]  # fmt: skip


def test_the_page_says_everything_and_runs_nothing():
    record = full_record()
    page = Texts(to_html(record))
    text = "\n".join(page.texts)
    assert [words for words in everything(record) if words not in text] == []
    assert ANSWER in text
    assert not {"script", "link", "iframe", "b"} & {tag for tag, _ in page.tags}
    sources = [attrs["src"] for tag, attrs in page.tags if "src" in attrs]
    assert len(sources) == 1
    assert sources[0].startswith("data:image/jpeg;base64,")
    assert [attrs for _, attrs in page.tags if "href" in attrs] == []
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")


def test_the_likeliest_diseases_are_exported_where_there_are_any():
    record = full_record()
    assert "Tinea pedis" not in to_html(record)
    diseases = [{"name": "Tinea pedis", "class_name": "fungal_infections", "probability": 0.3125}]
    text = "\n".join(
        Texts(to_html(full_record(differential=record.differential | {"diseases": diseases}))).texts
    )
    assert "Tinea pedis" in text
    assert "31.2 %" in text


def test_the_picture_is_left_out_on_request():
    record = full_record()
    assert "data:image" not in to_html(record, with_pictures=False)
    assert ENGLISH["not_included"] in to_html(record, with_pictures=False)
    assert record.pictures[0].sha256 in to_html(record, with_pictures=False)
    assert len(to_pdf(record, with_pictures=False)) < len(to_pdf(record))


def test_an_empty_consultation_is_exported_too():
    record = Consultation({"checkpoint": "no checkpoint"})
    assert ENGLISH["no_turns"] in to_html(record)
    assert to_pdf(record).startswith(b"%PDF-")


def on_paper(monkeypatch, record):
    """What is set on each page: the text of every cell, as fpdf2 is given it."""
    pages: dict[int, list[str]] = {}
    render = Paper._render_styled_text_line

    def watched(self, text_line, *args, **kwargs):
        pages.setdefault(self.page, []).append("".join(f.string for f in text_line.fragments))
        return render(self, text_line, *args, **kwargs)

    monkeypatch.setattr(Paper, "_render_styled_text_line", watched)
    data = to_pdf(record)
    return data, pages


def test_the_pdf_says_everything_and_on_each_page_that_it_is_not_a_diagnosis(monkeypatch):
    record = full_record(
        turns=[*full_record().turns, *(Exchange(f"Q{n}?", "A long answer. " * 200) for n in range(3))]
    )
    data, pages = on_paper(monkeypatch, record)
    assert len(pages) == len(re.findall(rb"/Type /Page\b", data)) > 2
    for lines in pages.values():
        assert sum(ENGLISH["foot"] in line for line in lines) == 1
    text = re.sub(r"\s+", "", "".join(line for lines in pages.values() for line in lines))
    assert [words for words in everything(record) if re.sub(r"\s", "", words) not in text] == []
    assert "Größe3µm,αβγ:<script>alert(1)</script>" in text
    assert b"/Lang (en)" in data


def test_umlauts_and_greek_have_glyphs_and_other_scripts_are_counted(monkeypatch):
    assert Paper("x").num_lacking("ÄÖÜäöüß αβγδω µ ≥ ± × – „“ Жж é\n") == 0
    record = full_record(turns=[Exchange("?", "皮膚 🙂")])
    _, pages = on_paper(monkeypatch, record)
    assert any("3 characters of other scripts" in line for lines in pages.values() for line in lines)
    assert "皮膚 🙂" in to_html(record)
    assert "皮膚 🙂" in record.to_json()


def test_german(monkeypatch):
    """Everything except what a model or a person wrote, the names of settings, and the record's own disclaimer."""
    history = {
        "site": "lower leg",
        "symptoms": ["itch", "Zwicken"],
        "fitzpatrick": 4,
        "read_by_the_model": True,
    }
    record = full_record(language="de", history=history)
    page = to_html(record)
    for words in (
        "Keine Diagnose", "Bild 1 (nah)", load("de")["quality.blurred.problem"], "Hauttyp nach Fitzpatrick",
        "Unterschenkel", "Juckreiz, Zwicken", "vom Modell gelesen</th><td>ja", "Akne und Rosazea",
        "Demonstrationsmodell", load("de")["concepts.Plaque"], GERMAN["untrained_history"],
    ):  # fmt: skip
        assert words in page, words
    for words in ("lower leg", "Acne", "blurred", "True", "language model", ENGLISH["foot"]):
        assert words not in page, words
    data, pages = on_paper(monkeypatch, record)
    assert all(any("Keine Diagnose" in line for line in lines) for lines in pages.values())
    assert b"/Lang (de)" in data
    assert ENGLISH["foot"] in to_html(full_record(language="xx")), "an unknown language falls back to English"


@pytest.mark.parametrize("caution", [DEMONSTRATION, UNTRAINED, UNKNOWN])
def test_the_caution_about_the_model_is_translated_too(caution):
    record = full_record(model={"checkpoint": "run/200", "caution": caution}, language="de")
    assert caution not in to_html(record)
    assert any(
        html.escape(text) in to_html(record) for text in load("de").table["banner"].values() if len(text) > 60
    )


def test_command(tmp_path, capsys):
    source = tmp_path / "c.json"
    source.write_text(full_record().to_json(with_pictures=True), encoding="utf-8")
    page, paper = tmp_path / "c.html", tmp_path / "c.pdf"
    assert consultation_export.main([str(source), "--html", str(page), "--pdf", str(paper)]) == 0
    assert "data:image/jpeg" in page.read_text(encoding="utf-8")
    assert paper.read_bytes().startswith(b"%PDF-")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.html", "c.json", "c.pdf"]
    capsys.readouterr()
    source.write_text("{}")
    for wrong in ([str(source)], [str(source), "--html", "x"], [str(tmp_path / "no.json"), "--pdf", "x.pdf"],
                  [str(tmp_path / "c.pdf"), "--html", "x"]):  # fmt: skip
        assert consultation_export.main(wrong) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4
    assert all(line.startswith("error: ") for line in errors)


def test_a_changed_file_does_not_change_the_disclaimer():
    page = to_html(full_record(disclaimer="A doctor has checked this."))
    assert "A doctor has checked this." not in page
    assert html.escape(ENGLISH["disclaimer"]) in page


@pytest.mark.parametrize("size", [(30, 2000), (2000, 30), (900, 1600)])
def test_pictures_of_any_shape_fit(size):
    record = full_record(pictures=[ShownPicture.of(Image.new("RGB", size))])
    assert to_pdf(record).startswith(b"%PDF-")
    sent = json.loads(record.to_json(with_pictures=True))["pictures"][0]
    assert (sent["width"], sent["height"]) == size


@pytest.mark.parametrize(
    ("key", "value"),
    [("differential", True), ("differential", {"ranking": 3}), ("history", "x"), ("model", []), ("turns", 3),
     ("turns", " "), ("turns", [[]]), ("pictures", " "), ("pictures", {"a": 1}), ("language", 3),
     ("disclaimer", None), ("created", [])],
)  # fmt: skip
def test_a_record_with_a_strange_value_is_a_page_or_one_sentence(key, value, tmp_path, capsys):
    row = {
        "format": record.FORMAT, "model": {}, "id": "i", "created": "2026", "software": "s", "language": "en",
        "pictures": [], "history": None, "turns": [], "differential": None, "disclaimer": "d", key: value,
    }  # fmt: skip
    (tmp_path / "talk.json").write_text(json.dumps(row))
    paths = [str(tmp_path / name) for name in ("talk.json", "c.html", "c.pdf")]
    status = consultation_export.main([paths[0], "--html", paths[1], "--pdf", paths[2]])
    error = capsys.readouterr().err
    assert status == 0 or (error.startswith("error: ") and len(error.splitlines()) == 1)
    assert not list(tmp_path.glob(".*.part"))
