"""The report of arms that lack texts or scores, of raters with roles and of groups of trainings."""

import json
import shutil
import subprocess

import pytest
from PIL import Image

from eval.page.parts import NOTHING, Table, Text
from eval.page.report import write_report
from eval.page.sections.ratings import ratings_parts
from eval.rating.questionnaire import ITEMS, LAY_ITEMS
from eval.rating.ratings import Rating, write_csv
from eval.rating.store import Store
from eval.rating.study import agree, change_study
from eval.rating.summary import summary
from eval.report import main
from skingpt4.taxonomy.published import published
from tests.eval.test_report import Page
from tests.support.partial_run import add_arm, cases, copy_old, listed, scores, texts


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Eight arms of five kinds with two dermatologists and a lay user; the report was written with all options."""
    root = tmp_path_factory.mktemp("partial")
    folder = copy_old(root / "run")
    scores(folder, "probe", {"model": "encoder", "sha256": "ab" * 32, "precision": "float32"})
    listed(folder, "endpoint")
    texts(folder, "dermatologist", {"system": "one dermatologist"}, num_answered=6)
    add_arm(folder, "silent", {"kind": "endpoint", "prompts": ["a"], "probes": [], "scores": False}, [])
    for seed in range(2):
        for suffix in ("jsonl", "meta.json"):
            shutil.copy(
                folder / "answers" / f"untrained.{suffix}", folder / "answers" / f"trained_s{seed}.{suffix}"
            )
        path = folder / "answers" / f"trained_s{seed}.meta.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "checkpoint_sha256": str(seed) * 64}))
    ratings = []
    for rater, role in (("r1", "dermatologist"), ("r2", "dermatologist"), ("r3", "lay")):
        for place, case in enumerate(cases(folder)):
            for arm in ("two_step", "dermatologist"):
                item = "helps_patients" if role == "lay" else "diagnosis"
                value = "5" if (place < 3) == (arm == "two_step") else "2"
                ratings.append(Rating(arm, case["id"], rater, item, value, role=role))
    write_csv(ratings, folder / "ratings.csv")
    store = Store(folder)
    study = change_study(store, {"approval": "EK 2026-17", "consent": "You rate texts.\n\nYou can stop."})
    for rater in ("r1", "r3", "somebody else"):
        agree(store, rater, study)
    (root / "images").mkdir()
    for number in range(6):
        Image.new("RGB", (40, 30), (200, 150, 30 * number)).save(root / "images" / f"{number}.jpg")
    listing = root / "manifest.jsonl"
    listing.write_text("".join(json.dumps({"image": f"images/{n}.jpg"}) + "\n" for n in range(6)))
    write_report(folder, listing, groups=["trained=trained_s*"], appendix=True)
    return folder


@pytest.fixture(scope="module")
def page(run):
    return Page((run / "report.html").read_text(encoding="utf-8"))


def section(page_text, start, end):
    return page_text[page_text.rindex(start) : page_text.rindex(end)]


def test_a_summary_stands_first_with_every_arm(page):
    summary = page.text[page.text.index("Every arm; n = 6") :][:2500]
    for arm in ("two-step", "probe", "endpoint", "dermatologist", "trained", "untrained"):
        assert arm in summary
    assert "2 trainings" in summary
    assert "dermatologists: diagnosis right" in summary
    assert "lay users: helps to understand" in summary
    assert "Is a language model needed? Against the classifier on image features: class top-1" in page.text
    assert "Rated by 3 raters (2 dermatologists, 1 lay user)." in page.text


def test_what_an_arm_lacks_is_a_dash_with_its_reason(page):
    for reason in ("– no text read for a class", "– classes not scored", "– one choice, no order",
                   "– concepts not named", "– not rated", "– writes no text"):  # fmt: skip
        assert reason in page.text, reason
    assert "silent has answered no case completely and is left out" in page.text


def test_cards_and_cost(page):
    cards = page.text[page.text.index("Every arm, as its meta file describes it") :][:3000]
    assert "classifier on an encoder's features encoder abababababab" in cards
    assert "one dermatologist" in cards
    assert "log-probabilities of sentences" in cards
    assert "30.00 30.00 to 30.00" in page.text


def test_roles_stand_apart(run, page):
    rated = json.loads((run / "results.json").read_text())["ratings"]["by_role"]
    assert rated["dermatologist"]["arms"]["two_step"]["diagnosis"]["agree"]["value"] == 0.5
    assert rated["lay"]["arms"]["dermatologist"]["helps_patients"]["agree"]["n"] == 6
    drawings = [label for label in page.attributes("aria-label") if "five-point scale" in label]
    assert len(drawings) == 4  # two roles, two arms
    assert "by 2 dermatologists, 1 lay user." in page.text


def test_each_role_s_items_stand_in_the_words_of_its_form(page):
    start = page.text.index("by 2 dermatologists, 1 lay user.")
    opinions = page.text[start : page.text.index("agreement of the raters, with", start)]
    _, dermatologists, lay = opinions.split("1 lay user", 2)
    assert ITEMS["diagnosis"] in dermatologists
    assert LAY_ITEMS["helps_patients"] in lay
    assert ITEMS["helps_patients"] not in opinions
    assert "published" in dermatologists.casefold()
    assert "Diamonds: published" not in lay


def test_lay_users_alone_are_not_set_beside_what_the_paper_prints_of_dermatologists():
    ratings = [Rating("two_step", f"case-{n}", "r1", "suggestions", "4", role="lay") for n in range(3)]
    parts = ratings_parts(summary(ratings), published())
    (table,) = (part for part in parts if isinstance(part, Table))
    assert table.rows[0][0] == LAY_ITEMS["suggestions"]
    assert table.rows[0][3:5] == [NOTHING, NOTHING]
    assert not any(
        "agree or strongly agree as printed" in part.text for part in parts if isinstance(part, Text)
    )


def test_approval_and_consent_are_in_the_report(run, page):
    assert "Approval number: EK 2026-17. Agreed to take part: 2 of 3 raters." in page.text
    assert "What raters agreed to You rate texts. You can stop." in page.text
    study = json.loads((run / "results.json").read_text())["ratings"]["study"]
    assert study["approvals"] == ["EK 2026-17"]
    assert "somebody else" not in json.dumps(study)


def test_a_group_of_trainings_is_one_arm(run, page):
    trainings = json.loads((run / "results.json").read_text())["trainings"]
    group = trainings["groups"]["trained"]
    assert group["arms"] == ["trained_s0", "trained_s1"]
    assert group["top1"]["between_sd"] == 0  # copies of one arm
    assert trainings["pairs"]["trained_minus_untrained"]["top1"]["value"] == 0
    assert "trained_s0" not in page.text[: page.text.index("What the arms are")].replace(
        "trained s0", "trained_s0"
    )
    assert "Means over trainings, with two-way 95 % intervals" in page.text


def test_imported_times_are_marked(page):
    assert "dermatologist, first answer, imported" in page.text
    assert "against the imported times of dermatologist, first answer: faster in 6 of 6 cases" in page.text


def test_pictures_are_covered_until_they_are_clicked(page):
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    covers = [attrs for tag, attrs in page.tags if tag == "details" and attrs.get("class") == "cover"]
    assert len(images) == len(covers) == 6
    assert not any("open" in attrs for attrs in covers)


def test_pictures_can_be_left_out_of_all_files(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    command = [
        "--run-dir",
        str(tmp_path / "run"),
        "--cases",
        str(run.parent / "manifest.jsonl"),
        "--appendix",
    ]
    assert main([*command, "--without-pictures"]) == 0
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "data:image" not in text
    assert "picture left out" in text
    for name in ("report.pdf", "appendix.pdf"):
        assert b"/Subtype /Image" not in (tmp_path / "run" / name).read_bytes()
        assert b"/Subtype /Image" in (run / name).read_bytes()


def test_the_appendix_holds_every_case_and_complete_answers(run):
    if not shutil.which("pdftotext"):
        pytest.skip("pdftotext (poppler-utils) is not installed; the text of the PDF is not looked at")
    made = subprocess.run(
        ["pdftotext", "-layout", run / "appendix.pdf", "-"], capture_output=True, text=True, check=True
    )
    text = " ".join(made.stdout.split())
    for case in cases(run):
        assert f"{case['id']}:" in text
    assert text.count("Some words.") == 6
    longest = max(
        (json.loads(line) for line in (run / "answers" / "two_step.jsonl").read_text().splitlines()),
        key=lambda row: len(row.get("answer", "")) if row["repeat"] == 0 else 0,
    )
    assert " ".join(longest["answer"].split()) in text
    assert "two-step, dermatologists: diagnosis 5 5" in text
    assert "two-step, lay users: helps patients 5" in text


def test_groups_that_cannot_be_are_refused_before_anything_is_written(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    before = (tmp_path / "run" / "report.html").read_bytes()
    assert main(["--run-dir", str(tmp_path / "run"), "--group", "all=two_step,nobody"]) == 1
    assert "no arm is called 'nobody'" in capsys.readouterr().err
    assert main(["--run-dir", str(tmp_path / "run"), "--group", "all=two_step,probe"]) == 1
    assert "two_step and probe differ in kind" in capsys.readouterr().err
    assert (tmp_path / "run" / "report.html").read_bytes() == before
