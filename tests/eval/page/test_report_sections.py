"""Every section with its input and without, on the page and on paper."""

import json
import shutil
import subprocess

import jinja2
import pytest
from PIL import Image

from eval.asking.answers import read_run
from eval.measures.results import ReportError
from eval.page import pdf, report
from eval.page.html import page as write_page
from eval.page.parts import Document, Drawing, Figure, Heading, Section, Text
from eval.page.report import write_report
from eval.page.sections import checklists, measures
from eval.page.sections.ratings import printed_shares
from eval.page.sections.times import doctors_times, response_times
from eval.rating.ratings import Rating, RatingsError, write_csv
from eval.report import main
from skingpt4.taxonomy.published import published
from tests.eval.test_report import Page
from tests.support.simulated_run import Panel, write_run

FIGURE = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 5}


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    """The folder of 30 cases, two arms and three raters, read-only, and the document of its report."""
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
    documents = []

    def write_pdf(document, path):
        documents.append(document)
        pdf.write_pdf(document, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_pdf", write_pdf)
        write_report(run_dir)
    return run_dir, documents[0]


@pytest.fixture(scope="module")
def rated_run(rated):
    return rated[0]


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
        "What people say of the answers",
        "Gwet's AC2",
        "TRIPOD-LLM",
        "CLEAR Derm",
        "Prompt 4",
        "80.63 %",
    ):
        assert words in text


def test_paper_gets_what_the_page_holds(rated, monkeypatch, tmp_path):
    """Headings in order, every table, every drawing, every picture; no link, and no folded answer."""
    seen = {"heading": [], "text": [], "rows": 0, "image": 0, "picture": 0}
    for name in ("heading", "text"):
        count = lambda self, text, *rest, name=name, **_: seen[name].append((text, *rest))  # noqa: E731
        monkeypatch.setattr(pdf.Paper, {"text": "text_block"}.get(name, name), count)
    for name in ("rows", "image", "picture"):
        count = lambda *_, name=name, **__: seen.update({name: seen[name] + 1})  # noqa: E731
        monkeypatch.setattr(pdf.Paper, name, count)
    run_dir, document = rated
    pdf.write_pdf(document, tmp_path / "other.pdf")
    tags = Page((run_dir / "report.html").read_text(encoding="utf-8")).tags
    names = [tag for tag, _ in tags]
    levels = [level for _, level, _ in seen["heading"]]
    assert levels.count("h1") == 1
    assert levels.count("h2") - 1 == names.count("h2") == 18, "on paper the pictures stand at the end"
    assert (seen["image"], seen["picture"]) == (names.count("svg"), names.count("img"))
    assert seen["image"] > 9
    assert seen["rows"] == names.count("table") + sum(attrs.get("class") == "arms" for _, attrs in tags)
    bullets = [text for text, *_ in seen["text"] if text.startswith("•")]
    assert bullets
    assert len(bullets) == names.count("li") - 18, "the links to the sections lead nowhere on paper"
    assert all(text.strip("• ") for text in bullets)


def fragment(parts):
    """What the page makes of these parts, without the rest of it."""
    page = write_page(Document("title", [], [Section("key", "title", parts)]))
    return page.split("</h2>")[1].split("</section>\n")[0]


def test_text_of_a_part_never_becomes_an_element():
    evil = "<script>alert('x')</script>\" onload=\"x"
    html = fragment([Heading(evil), Text(evil, "soft"), Figure(Drawing("0 0 9 9", evil, "<g></g>"), evil)])
    page = Page(html)
    assert [tag for tag, _ in page.tags] == ["h3", "p", "figure", "svg", "g", "figcaption"]
    assert page.text.count(evil) == 3
    assert page.attributes("aria-label") == [evil]


def test_a_part_without_a_macro_is_not_passed_over():
    with pytest.raises(jinja2.UndefinedError):
        fragment([Section("key", "title", [])])


def test_a_heading_stands_on_the_page_of_its_figure(monkeypatch, tmp_path):
    pages, real = [], pdf.Paper.heading

    def heading(self, text, level, *rest):
        real(self, text, level, *rest)
        if level == "h3":
            pages.append(self.page_no())

    monkeypatch.setattr(pdf.Paper, "heading", heading)
    monkeypatch.setattr(pdf.Paper, "image", lambda self, *_, **__: pages.append(self.page_no()))
    figure = Figure(Drawing("0 0 446 400", "", ""), "caption")
    for num_lines in (1, 15, 30, 45):
        pages.clear()
        parts = [*[Text("one line")] * num_lines, Heading("two-step"), figure]
        pdf.write_pdf(Document("x", [], [Section("s", "S", parts)]), tmp_path / "x.pdf")
        assert len(pages) == 2
        assert pages[0] == pages[1], f"after {num_lines} lines"


def test_consistency_greedy_sampled_and_changed():
    greedy = {
        "two_step": {"repeats": {"repeats": 3, "trivial": True, "temperature": 0, "identical_texts": FIGURE}}
    }
    page = Page(fragment(measures.consistency_parts(greedy)))
    assert "its 3 repeats are the same by construction" in page.text
    assert "svg" not in [tag for tag, _ in page.tags]
    rows = [["herpes"] * 3, ["herpes", "dermatitis", None]]  # the second names no class twice
    kappa = {"value": None, "low": None, "high": None, "n": 2}
    data = {"pairwise": FIGURE, "modal": FIGURE, "always_same": FIGURE, "fleiss_kappa": kappa, "matrix": rows}
    repeats = {"repeats": 3, "trivial": False, "temperature": 0.7, "turn 1": data}
    changes = {"rotate:15": {"kind": "rotate", "strength": 15.0, "class_scored": FIGURE, "top1": FIGURE}}
    parts = measures.consistency_parts({"two_step": {"repeats": repeats, "perturbations": changes}})
    page = Page(fragment(parts))
    assert (
        "Heat map of consistency: 3 repeats of 2 cases; 50 % of the answers"
        in page.attributes("aria-label")[0]
    )
    assert "90.0 % 80.0 to 95.0" in page.text
    assert "rotate 15" in page.text
    assert "93.73 %" in page.text


def test_further_measures_are_shown_where_they_are():
    assert "no further measures" in fragment(measures.measures_parts({"two_step": {"top1": FIGURE}}))
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
    page = Page(fragment(measures.measures_parts({"two_step": arm})))
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
    trained = [arm.meta for arm in run.arms.values() if arm.meta.get("checkpoint")]
    for meta in trained:
        meta |= {"overlap_with_training": [], "overlap_not_compared": []}
    assert checklists.facts(run, results, 0)["overlap_checked"]
    trained[0]["overlap_not_compared"] = ["1 of 4 records of the cases could not be compared"]
    assert not checklists.facts(run, results, 0)["overlap_checked"]
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
