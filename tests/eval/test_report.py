import json
import shutil
from html.parser import HTMLParser

import pytest
from PIL import Image

from eval.asking.answers import Answer, Key, read_run, to_line
from eval.measures.results import ReportError, headline, run_lines, write_results
from eval.page.report import write_report
from eval.page.sections.gallery import gallery_cases
from eval.report import main

CLASSES = ["acne_and_rosacea", "dermatitis", "herpes", "urticaria_hives", "vascular_tumors"]
EVIL = "<script>alert('x')</script>"
SECTIONS = [
    "summary", "arms", "cards", "comparisons", "published", "ratings", "agreement", "times", "consistency", "losses",
    "measures", "confusion", "concepts", "groups", "gallery", "method", "checklists", "provenance",
]  # fmt: skip


def answer(arm, number, right):
    true = CLASSES[number % 5]
    best = true if right else CLASSES[(number + 1) % 5]
    concepts = ["Papule", "Scale"] if number % 2 else ["Erythema"]
    return {
        "arm": arm,
        "case_id": f"case-{number:03d}",
        "image": f"images/{number:06d}.jpg",
        "sha256": "0" * 64,
        "class": true,
        "disease": "cost $5 & up",
        "concepts": concepts,
        "fitzpatrick": number % 6 + 1,
        "turns": [
            {"question": "Which concepts?", "answer": ", ".join(concepts)},
            {"question": "What is wrong?", "answer": EVIL if number == 0 else f"This could be {best}. " * 30},
        ],
        "predicted_concepts": concepts if right else ["Ulcer"],
        "class_scores": {name: -0.5 if name == best else -2.0 for name in CLASSES},
        "predicted_class": best,
        "text_class": best if number % 3 else None,
        "seconds": 1.5,
    }


def to_lines(line):
    """The lines that eval.run writes for what `answer` says of a case."""
    for number, turn in enumerate(line["turns"], 1):
        read = {1: ("predicted_concepts",), 2: ("text_class",)}[number]
        said = {**turn, **{key: line[key] for key in read}}
        yield Answer(line["arm"], Key(line["case_id"], 0, None, "probe", number), said)
    scores = {"class_scores": line["class_scores"], "concept_scores": None}
    yield Answer(line["arm"], Key(line["case_id"], 0, None, "scores"), scores)


def add_arm(run_dir, arm, hits):
    folder = run_dir / "answers"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [answer(arm, number, number < hits) for number in range(30)]
    written = [to_line(line) for row in rows for line in to_lines(row)]
    (folder / f"{arm}.jsonl").write_text("".join(written), encoding="utf-8")
    meta = {"template": "skingpt4", "checkpoint": f"{arm}.safetensors", "versions": {"torch": "2.9"}}
    meta |= {"prompts": [], "probes": ["Which concepts?", "What is wrong?"]}
    (folder / f"{arm}.meta.json").write_text(json.dumps(meta), encoding="utf-8")
    cases = [
        {"id": row["case_id"], "images": [row["image"]], "sha256": [row["sha256"]]}
        | {key: row[key] for key in ("class", "disease", "concepts", "fitzpatrick")}
        for row in rows
    ]
    (run_dir / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """A run of 30 cases and 4 arms, with losses and pictures; treat it as read-only."""
    root = tmp_path_factory.mktemp("report")
    run_dir, cases = root / "run", root / "cases" / "manifest.jsonl"
    for arm, hits in {"two_step": 24, "step1_only": 9, "untrained": 6, "blank_image": 3}.items():
        add_arm(run_dir, arm, hits)
    for step in ("step1", "step2"):
        (run_dir / step).mkdir()
        rows = [{"kind": "train", "iteration": i, "loss": 5 / i, "learning_rate": 1e-3} for i in range(1, 41)]
        rows += [{"kind": "validation", "iteration": i, "loss": 6 / i} for i in (20, 40)]
        (run_dir / step / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (cases.parent / "images").mkdir(parents=True)
    records = []
    for number in range(30):
        record = answer("", number, True)
        Image.new("RGB", (32, 24), (200, 150, 5 * number)).save(cases.parent / record["image"])
        records.append({"case_id": record["case_id"], "image": record["image"], "source": "phantoms"})
    cases.write_text("\n".join(map(json.dumps, records)))
    write_results(run_dir, 612.5, 2.25, {"command": "make quickstart"})
    write_report(run_dir, cases)
    return run_dir, cases


@pytest.fixture
def copy(made_up, tmp_path):
    """The same run, free to be changed."""
    shutil.copytree(made_up[0].parent, tmp_path / "copy")
    return tmp_path / "copy" / "run", tmp_path / "copy" / "cases" / "manifest.jsonl"


class Page(HTMLParser):
    """Tags with attributes, the visible text, and whether every tag is closed in order."""

    VOID = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def attributes(self, name):
        return [attrs[name] for _, attrs in self.tags if name in attrs]


@pytest.fixture(scope="module")
def page(made_up):
    return Page((made_up[0] / "report.html").read_text(encoding="utf-8"))


def test_page_is_whole_and_has_every_section(page):
    assert page.open == []
    assert [attrs["id"] for tag, attrs in page.tags if tag == "section" and "id" in attrs] == SECTIONS
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert "Research software, not a medical device; the pictures are rendered phantoms" in page.text


def test_page_loads_nothing(made_up, page):
    text = (made_up[0] / "report.html").read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert all(source.startswith("data:") for source in page.attributes("src"))
    assert all(target.startswith("#") for name in ("href", "xlink:href") for target in page.attributes(name))
    # What a figure refers to inside itself must still be there after its ids were renamed.
    targets = {target[1:] for target in page.attributes("xlink:href")}
    assert targets <= set(page.attributes("id"))


def test_text_is_escaped(made_up, page):
    assert "<script" not in (made_up[0] / "report.html").read_text(encoding="utf-8")
    assert EVIL in page.text
    assert "cost $5 & up" in page.text


def test_page_is_accessible(page):
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    drawings = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(pictures) == 12
    assert all(attrs["alt"] for attrs in pictures)
    assert len(drawings) == 9
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in drawings)
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.tags if tag == "th")
    assert "✓ right" in page.text
    assert "✗ wrong" in page.text


def test_page_tells_numbers_and_provenance(page):
    assert "80.0 % (62.7 to 90.5, n = 30)" in page.text
    assert "class top-1 two-step − untrained +60.0 points" in page.text
    assert "McNemar's exact test" in page.text
    for fact in ("make quickstart", "612 s", "2.25 GB", "two-step: two_step.safetensors", "versions.torch"):
        assert fact in page.text


def test_results_schema(made_up):
    results = json.loads((made_up[0] / "results.json").read_text())
    assert set(results) == {
        "num_cases", "seconds", "peak_memory_gb", "arms", "text_outcomes", "comparisons", "pairs", "consistency",
        "provenance",
    }  # fmt: skip
    assert (results["num_cases"], results["seconds"], results["peak_memory_gb"]) == (30, 612.5, 2.25)
    assert list(results["arms"]) == ["two_step", "step1_only", "untrained", "blank_image"]
    for summary in results["arms"].values():
        for name in ("top1", "top3", "top1_text", "concept_micro_f1"):
            assert set(summary[name]) == {"value", "low", "high", "n"}
    assert results["arms"]["two_step"]["top1"]["value"] == 0.8
    difference = results["comparisons"]["two_step_minus_step1_only"]["top1"]
    assert difference["value"] == 0.5
    assert (difference["only_first"], difference["only_second"]) == (15, 0)
    assert results["provenance"]["run"] == {"command": "make quickstart"}
    assert not list(made_up[0].glob(".*"))  # no temporary file is left


def test_an_arm_added_later_joins_and_the_rest_is_kept(copy):
    run_dir, _ = copy
    add_arm(run_dir, "step2_only", 20)
    results = write_results(run_dir)
    assert list(results["arms"]) == ["two_step", "step1_only", "step2_only", "untrained", "blank_image"]
    assert "two_step_minus_step2_only" in results["comparisons"]
    assert (results["seconds"], results["peak_memory_gb"]) == (612.5, 2.25)
    assert results["provenance"]["run"] == {"command": "make quickstart"}
    assert json.loads((run_dir / "results.json").read_text()) == results


def test_command_line_prints_the_headline_of_a_bare_run(tmp_path, capsys):
    """One arm, no losses, no pictures, real photographs, fewer answers than records: still a page."""
    add_arm(tmp_path / "run", "untrained", 30)
    cases = tmp_path / "manifest.jsonl"
    cases.write_text('{"source": "ddi"}\n' * 31)
    assert main(["--run-dir", str(tmp_path / "run"), "--cases", str(cases)]) == 0
    assert "100.0 % (88.6 to 100.0, n = 30)" in capsys.readouterr().out
    text = Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8")).text
    assert "picture not found" in text
    assert "no loss logs" in text
    assert "holds 31 records, of which 30 were answered" in text
    assert "phantom" not in text


def test_headline_is_a_table(made_up):
    lines = headline(json.loads((made_up[0] / "results.json").read_text())).splitlines()
    assert lines[0].split()[0] == "arm"
    assert lines[2].startswith("two_step")
    assert any("two_step_minus_untrained: top-1 +60.0 points" in line for line in lines)


def test_gallery_is_chosen_by_rule(made_up):
    chosen = gallery_cases(run_lines(read_run(made_up[0]))["two_step"])
    assert [line["case_id"] for line in chosen] == [f"case-{number:03d}" for number in range(12)]


def test_gallery_of_chosen_cases(copy, capsys):
    run_dir, cases = copy
    arguments = ["--run-dir", str(run_dir), "--cases", str(cases), "--show"]
    before = (run_dir / "report.html").read_bytes()
    assert main([*arguments, "case-029", "nobody"]) == 1
    assert "no arm has an answered case 'nobody' to be shown" in capsys.readouterr().err
    assert (run_dir / "report.html").read_bytes() == before
    assert main([*arguments, "case-029", "case-004"]) == 0
    page = Page((run_dir / "report.html").read_text(encoding="utf-8"))
    assert "2 cases chosen by hand. ✓" in page.text
    assert page.text.index("case case-029") < page.text.index("case case-004")
    assert len([tag for tag, _ in page.tags if tag == "article"]) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row["class_scores"].update(herpes=float("nan")), "'herpes' is not a finite number"),
        (lambda row: row["class_scores"].pop("vascular_tumors"), "'vascular_tumors' has no score"),
    ],
)
def test_scores_that_would_win_unnoticed_are_named(copy, change, message):
    path = copy[0] / "answers" / "step1_only.jsonl"
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    for row in rows[12:15]:
        if row["kind"] == "scores":
            change(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ReportError, match=message) as caught:
        write_report(*copy)
    assert "arm step1_only, case 'case-004'" in str(caught.value)


def test_a_case_that_is_not_answered_to_the_end_is_left_out(copy):
    path = copy[0] / "answers" / "two_step.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert len(run_lines(read_run(copy[0]))["two_step"]) == 29
    path.write_text("")
    with pytest.raises(ReportError, match="has no completely answered case"):
        run_lines(read_run(copy[0]))


def test_other_errors_are_clear(copy, tmp_path, capsys):
    run_dir, cases = copy
    assert main(["--run-dir", str(tmp_path / "none"), "--cases", str(cases)]) == 1
    assert "none: holds no answers" in capsys.readouterr().err
    assert main(["--run-dir", str(run_dir), "--cases", str(tmp_path / "none.jsonl")]) == 1
    assert "none.jsonl: no such file" in capsys.readouterr().err
    assert main(["--run-dir", str(cases.parent), "--cases", str(cases)]) == 1
    assert "holds no answers" in capsys.readouterr().err
    (run_dir / "step2" / "metrics.jsonl").write_text('{"kind": "train", "iteration": 1}\n{broken')
    with pytest.raises(ReportError, match=r"metrics.jsonl:2: not valid JSON"):
        write_report(run_dir, cases)
