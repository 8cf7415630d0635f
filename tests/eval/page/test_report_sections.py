"""Every section with its input and without, on the page and on paper."""

import json
import shutil
import subprocess

import pytest
from PIL import Image

from eval.asking.answers import read_run
from eval.page import checklists, consistency, measures, pdf
from eval.page.document import TITLES
from eval.page.ratings import printed_shares
from eval.page.times import doctors_times, response_times
from eval.rating.ratings import Rating, RatingsError, write_csv
from eval.report import ReportError, main, write_report
from skingpt4.taxonomy.published import published
from tests.eval.test_report import Page
from tests.support.simulated_run import Panel, write_run

FIGURE = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 5}


@pytest.fixture(scope="module")
def rated_run(tmp_path_factory):
    """30 cases, two arms, three raters; read-only."""
    root = tmp_path_factory.mktemp("rated")
    images = [f"images/{number}.jpg" for number in range(30)]
    (root / "images").mkdir()
    for number, image in enumerate(images):
        Image.new("RGB", (64, 48), (200, 150, 7 * number)).save(root / image)
    cases = root / "manifest.jsonl"
    cases.write_text("\n".join(json.dumps({"image": image, "source": "phantoms"}) for image in images))
    run_dir = root / "run"
    ids = write_run(run_dir, images, {"two_step": 0.8, "untrained": 0.2}, cases_file=str(cases))
    write_csv(Panel().ratings(ids, 0), run_dir / "ratings.csv")
    write_report(run_dir)
    return run_dir


@pytest.fixture
def copy(rated_run, tmp_path):
    shutil.copytree(rated_run.parent, tmp_path / "copy")
    return tmp_path / "copy" / "run"


@pytest.fixture(scope="module")
def text(rated_run):
    return Page((rated_run / "report.html").read_text(encoding="utf-8")).text


def test_figure_4a_stands_beside_the_published_numbers(rated_run, text):
    page = Page((rated_run / "report.html").read_text(encoding="utf-8"))
    labels = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    assert sum("five-point scale" in label for label in labels) == 2
    assert "Ratings: 1260, cases: 30, by 3 raters" in text
    assert "80.63 %" in text
    assert "78.76 %" in text
    assert "No comparison of equals" in text
    results = json.loads((rated_run / "results.json").read_text())
    summary = results["ratings"]["arms"]["two_step"]["diagnosis"]
    assert sum(summary["counts"].values()) == summary["num_ratings"] == 90
    assert f"{100 * summary['agree']['value']:.1f} %" in text


def test_agreement_times_and_conversation_are_there(text):
    for words in ("quadratic-weighted kappa", "Krippendorff's alpha", "Gwet's AC2", "ICC(2,k)"):
        assert words in text
    assert "two-tailed Student t" in text
    assert "Wilcoxon's signed rank" in text
    assert "how many answers are decoded together (here up to 1);" in text
    assert "no comparison of equals" in text
    assert "Prompt 4: What treatment and medication should be recommended for this case?" in text
    assert "Each case was asked once" in text


def test_pictures_come_from_the_case_list_of_the_run(rated_run, text):
    assert "picture not found" not in text
    assert (rated_run / "report.html").read_text().count("data:image/jpeg") == 12


def test_provenance_names_the_ratings(rated_run, text):
    facts = json.loads((rated_run / "results.json").read_text())["provenance"]
    assert len(facts["ratings"]["ratings sha256"]) == 64
    assert facts["ratings"]["ratings sha256"] in text
    assert facts["files"]["sha256 of the run's cases"] in text


def test_without_ratings_the_page_says_how_to_collect_them(copy):
    (copy / "ratings.csv").unlink()
    write_report(copy)
    text = Page((copy / "report.html").read_text(encoding="utf-8")).text
    assert "No ratings yet" in text
    assert "No test: it needs the raters' own times" in text
    assert "ratings" not in json.loads((copy / "results.json").read_text())


def test_one_rater_and_one_item(copy):
    write_csv([Rating("two_step", "case-0001", "r1", "diagnosis", "4")], copy / "ratings.csv")
    write_report(copy)
    text = Page((copy / "report.html").read_text(encoding="utf-8")).text
    assert "Ratings: 1, cases: 1, by 1 rater." in text
    assert "one rater" in text
    assert "Agreement needs two raters or more" in text


def test_ratings_of_another_run_are_refused(copy, tmp_path, capsys):
    other = tmp_path / "other.csv"
    write_csv([Rating("two_step", "elsewhere", "r1", "diagnosis", "4")], other)
    before = (copy / "report.html").read_bytes()
    assert main(["--run-dir", str(copy), "--ratings", str(other)]) == 1
    assert "none of its 1 rows is about a case and an arm" in capsys.readouterr().err
    assert (copy / "report.html").read_bytes() == before
    with pytest.raises(RatingsError):
        write_report(copy, ratings_path=tmp_path / "none.csv")
    with pytest.raises(ReportError):
        write_report(copy, tmp_path / "none.jsonl")


def test_pdf_has_the_page_s_sections_and_warning(rated_run):
    path = rated_run / "report.pdf"
    data = path.read_bytes()
    assert data.startswith(b"%PDF-")
    assert data.rstrip().endswith(b"%%EOF")
    assert not list(rated_run.glob(".*"))
    if not shutil.which("pdftotext"):
        pytest.skip("pdftotext (poppler-utils) is not installed; the text of the PDF is not looked at")
    text = subprocess.run(
        ["pdftotext", "-layout", path, "-"], capture_output=True, text=True, check=True
    ).stdout
    pages = text.rstrip("\f").split("\f")
    assert len(pages) > 8
    assert all("Research software, not a medical device" in page for page in pages)
    for words in (
        "What dermatologists say of the answers",
        "Gwet's AC2",
        "TRIPOD-LLM",
        "CLEAR Derm",
        "Prompt 4",
        "80.63 %",
    ):
        assert words in text


def test_pdf_text_without_any_tool(rated_run, monkeypatch):
    """What is written is what the page holds: headings in order, every table, every drawing, every picture."""
    page = (rated_run / "report.html").read_text(encoding="utf-8")
    seen = {"heading": [], "rows": 0, "drawing": 0, "bullets": 0}
    write = pdf.Paper.text_block

    def text_block(self, text, *rest, **more):
        seen["bullets"] += text.startswith("•")
        assert text.strip() != "•"
        write(self, text, *rest, **more)

    monkeypatch.setattr(pdf.Paper, "text_block", text_block)
    monkeypatch.setattr(
        pdf.Paper, "heading", lambda self, text, level, room=None: seen["heading"].append((level, text))
    )
    monkeypatch.setattr(pdf.Paper, "rows", lambda self, rows, **_: seen.update(rows=seen["rows"] + 1))
    monkeypatch.setattr(
        pdf.Paper, "drawing", lambda self, svg, wide: seen.update(drawing=seen["drawing"] + 1)
    )
    pdf.write_pdf(page, rated_run.parent / "other.pdf")
    tags = [tag for tag, _ in Page(page).tags]
    assert [level for level, _ in seen["heading"]].count("h2") == tags.count("h2") == 15
    assert seen["drawing"] == tags.count("svg")
    assert seen["bullets"] == tags.count("li") - len(TITLES), (
        "the links to the sections lead nowhere on paper"
    )
    arms = sum(attrs.get("class") == "arms" for _, attrs in Page(page).tags)
    assert seen["rows"] == tags.count("table") + arms


def test_a_heading_stands_on_the_page_of_its_figure(monkeypatch):
    pages, real = [], pdf.Paper.heading

    def heading(self, *rest):
        real(self, *rest)
        pages.append(self.page_no())

    monkeypatch.setattr(pdf.Paper, "heading", heading)
    monkeypatch.setattr(pdf.Paper, "image", lambda self, *_, **__: pages.append(self.page_no()))
    svg = '<svg viewBox="0 0 446 400" role="img"></svg>'
    for filled in (20, 100, 180, 240):  # mm
        pages.clear()
        paper = pdf.Paper("x")
        paper.set_y(filled)
        pdf._Reader(paper, [svg]).feed('<h3>two-step</h3><figure><drawing number="0"></figure>')
        assert len(pages) == 2
        assert pages[0] == pages[1], f"begun at {filled} mm"


def test_consistency_greedy_sampled_and_changed():
    greedy = {
        "two_step": {"repeats": {"repeats": 3, "trivial": True, "temperature": 0, "identical_texts": FIGURE}}
    }
    text = Page(consistency.consistency_section(greedy)).text
    assert "its 3 repeats are the same by construction" in text
    assert "<svg" not in consistency.consistency_section(greedy)
    rows = [["herpes"] * 3, ["herpes", "dermatitis", None]]  # the second names no class twice
    kappa = {"value": None, "low": None, "high": None, "n": 2}
    data = {"pairwise": FIGURE, "modal": FIGURE, "always_same": FIGURE, "fleiss_kappa": kappa, "matrix": rows}
    repeats = {"repeats": 3, "trivial": False, "temperature": 0.7, "turn 1": data}
    changes = {"rotate:15": {"kind": "rotate", "strength": 15.0, "class_scored": FIGURE, "top1": FIGURE}}
    found = consistency.consistency_section({"two_step": {"repeats": repeats, "perturbations": changes}})
    page = Page(found)
    assert (
        "Heat map of consistency: 3 repeats of 2 cases; 50 % of the answers"
        in page.attributes("aria-label")[0]
    )
    assert "90.0 % 80.0 to 95.0" in page.text
    assert "rotate 15" in page.text
    assert "93.73 %" in page.text


def test_further_measures_are_shown_where_they_are():
    assert "no further measures" in measures.measure_section({"two_step": {"top1": FIGURE}})
    bins = [{"confidence": 0.7, "accuracy": FIGURE, "n": 5}]
    selective = {
        "aurc": FIGURE,
        "curve": {"coverage": [0.5, 1.0], "risk": [0.1, 0.3], "threshold": [0.9, 0.1]},
    }
    gap = {**FIGURE, "highest": "1", "lowest": "6"}
    arm = {
        "class": {"balanced_accuracy": FIGURE}, "calibration": {"ece": FIGURE, "bins": bins, "selective": selective},
        "groups": {"fitzpatrick": {"top1": {"gap": gap, "p": 0.03}}},
    }  # fmt: skip
    page = Page(measures.measure_section({"two_step": arm}))
    assert "balanced accuracy 90.0 %" in page.text
    assert "class top-1 Fitzpatrick skin type I VI 90.0 points" in page.text
    assert "expected calibration error (0 is best) 0.90" in page.text
    assert "30 % wrong where all cases are answered" in " ".join(page.attributes("aria-label"))


def test_checklists_never_claim_what_the_run_does_not_show(rated_run):
    run = read_run(rated_run)
    results = json.loads((rated_run / "results.json").read_text())
    known = checklists.facts(run, results, 0)
    for guideline in checklists.guidelines():
        topics = checklists.fill(guideline, known)
        assert {topic.state for topic in topics} == {"shown", "in part", "open"}
        nothing = checklists.fill(guideline, dict.fromkeys(known, False))
        assert {topic.state for topic in nothing} == {"open"}
        assert all(topic.to_do for topic in nothing)
        for item, topic in zip(guideline["topics"], topics, strict=True):
            assert item.get("needs") or item.get("open"), item
            assert (topic.state == "shown") == (not topic.to_do)
            if item.get("needs"):
                assert item["where"]
    # Nothing was changed, repeated, or told of history: those stay open.
    assert not any(known[name] for name in ("perturbations", "consistency", "history", "training_logs"))
    assert known["rater_agreement"]
    assert known["hallucination"]
    assert not checklists.facts(run, {**results, "ratings": {}}, 0)["rater_agreement"]
    run.cases["case-0001"]["fitzpatrick"] = -1
    assert not checklists.facts(run, results, 0)["skin_types"]


def test_links_of_the_page_lead_somewhere(rated_run):
    page = Page((rated_run / "report.html").read_text(encoding="utf-8"))
    ids = set(page.attributes("id"))
    assert {link[1:] for link in page.attributes("href")} <= ids


def test_published_shares_are_those_of_the_repository():
    shares = printed_shares(published())
    assert shares["diagnosis"] == {"preprint": 78.76, "article": 80.63}
    assert len(shares) == 7


def test_times_are_read_by_case(rated_run):
    times = response_times(read_run(rated_run), ["two_step"])["two_step"]
    assert {what: len(cases) for what, cases in times.items()} == {
        "first token": 30, "first answer": 30, "conversation": 30,
    }  # fmt: skip
    assert all(times["conversation"][case] > times["first answer"][case] for case in times["first answer"])
    own = [
        Rating("a", "c", "r1", "own_diagnosis", "x", "9", "2026-01-02"),
        Rating("b", "c", "r1", "own_diagnosis", "x", "40", "2026-01-01"),
        Rating("b", "c", "r2", "own_diagnosis", "x", "", ""),
    ]
    assert doctors_times(own) == {"c": [40.0]}
