"""Arms answered by a tiny network: what is written, resumed and refused."""

import json

import pytest

from eval import run
from eval.report import load_answers, write_results
from eval.report import main as report
from skingpt4.config import to_yaml
from skingpt4.taxonomy import CLASSES, version
from tests.skingpt4.tiny import one_thread, tiny_config, write_manifest  # noqa: F401


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A configuration and cases of three classes; two of the six have unknown concepts."""
    folder = tmp_path_factory.mktemp("eval")
    config = tiny_config(folder, data__feature_cache=str(folder / "features"), data__augment=False)
    (folder / "config.yaml").write_text(to_yaml(config))
    write_manifest(folder / "cases.jsonl")
    rows = [json.loads(line) for line in (folder / "cases.jsonl").read_text().splitlines()]
    classes = {"psoriasis": "psoriasis_and_lichen_planus", "acne": "acne_and_rosacea",
               "melanoma": "melanoma_nevi_moles", "eczema": "dermatitis"}  # fmt: skip
    for number, row in enumerate(rows):
        row |= {"class": classes[row["disease"]], "case_id": f"case-{number}"}
        if number >= 4:
            row["concepts"] = None
    (folder / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def answer(root, out, cases="cases.jsonl", *more):
    arguments = ["--config", str(root / "config.yaml"), "--cases", str(root / cases), "--run-dir", str(out)]
    return run.main([*arguments, "--arm", "untrained", "--batch-size", "4", "--max-new-tokens", "4", *more])


def lines(out):
    return [json.loads(line) for line in (out / "answers/untrained.jsonl").read_text().splitlines()]


def test_cases_with_and_without_known_concepts(root, tmp_path, capsys):
    assert answer(root, tmp_path) == 0
    rows = lines(tmp_path)
    assert [row["concepts"] is None for row in rows] == [False] * 4 + [True] * 2
    assert all(list(row["class_scores"]) == list(CLASSES) for row in rows)
    assert all(row["text_outcome"] in ("unknown", "asserted", "ambiguous", "mentioned") for row in rows)
    meta = json.loads((tmp_path / "answers/untrained.meta.json").read_text())
    assert meta["taxonomy"] == version()
    assert meta["scored_diseases"][0] == "acne"
    results = write_results(tmp_path)
    assert results["arms"]["untrained"]["top1"]["n"] == 6
    assert results["arms"]["untrained"]["concept_micro_f1"]["n"] == 4
    assert sum(results["text_outcomes"]["untrained"].values()) == 6
    assert report(["--run-dir", str(tmp_path), "--cases", str(root / "cases.jsonl")]) == 0
    assert "n = 4" in (tmp_path / "report.html").read_text()
    capsys.readouterr()


def test_no_case_with_known_concepts(root, tmp_path, capsys):
    rows = [json.loads(line) | {"concepts": None} for line in (root / "cases.jsonl").read_text().splitlines()]
    (root / "bare.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert answer(root, tmp_path, "bare.jsonl") == 0
    assert "concept_micro_f1" not in write_results(tmp_path)["arms"]["untrained"]
    assert report(["--run-dir", str(tmp_path), "--cases", str(root / "bare.jsonl")]) == 0
    assert "not annotated" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "their concepts are unknown" in page
    assert "not annotated" in page


def test_answers_of_another_taxonomy_are_made_anew(root, tmp_path, monkeypatch, capsys):
    assert answer(root, tmp_path) == 0
    capsys.readouterr()
    assert answer(root, tmp_path) == 0
    assert "all 6 cases are answered already" in capsys.readouterr().out
    monkeypatch.setattr("skingpt4.taxonomy.version", lambda: "another")
    assert answer(root, tmp_path) == 0
    assert "answered already" not in capsys.readouterr().out
    assert len(lines(tmp_path)) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": None}, "record 2: every case needs a 'case_id' and one of the 15 classes"),
        ({"class": "others"}, "record 2: every case needs a 'case_id' and one of the 15 classes"),
        ({"case_id": None}, "record 2: every case needs a 'case_id'"),
        ({"case_id": "case-0"}, "a 'case_id' stands twice"),
    ],
)
def test_cases_that_cannot_be_evaluated(root, tmp_path, capsys, change, message):
    rows = [json.loads(line) for line in (root / "cases.jsonl").read_text().splitlines()]
    rows[1] |= change
    (root / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert answer(root, tmp_path, "bad.jsonl") == 1
    err = capsys.readouterr().err
    assert message in err
    assert not (tmp_path / "answers").exists()


def test_arms_whose_truth_about_concepts_differs_are_refused(root, tmp_path, capsys):
    assert answer(root, tmp_path) == 0
    rows = lines(tmp_path)
    rows[5]["concepts"] = []
    other = tmp_path / "answers/other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(Exception, match="another arm has another truth for case 'case-5'"):
        load_answers(tmp_path)
