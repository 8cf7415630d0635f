"""From public files in their true shape over cases and a tiny network to the measures of their tasks."""

import json

import pytest

from data import prepare
from eval import cases, run
from eval.asking.answers import read_run
from eval.measures.by_task.figures import task_lines
from eval.measures.results import headline, write_results
from eval.tasks import load_task, read_task
from skingpt4.config.load import to_yaml
from tests.support.downloads import skincon_arguments, write_skincon
from tests.support.public_sets import write_ddi, write_dermavqa, write_ham10000, write_scin, write_skincap
from tests.support.tiny import tiny_config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    settings = tiny_config(folder, data__feature_cache=str(folder / "features"), data__augment=False)
    (folder / "config.yaml").write_text(to_yaml(settings))
    return folder / "config.yaml"


def drawn(tmp_path, arguments, task, *more):
    """Prepare a source and draw cases of a task; returns their file."""
    out = tmp_path / "data"
    assert prepare.main([*map(str, arguments), "--out-dir", str(out), "--workers", "1"]) == 0
    listed = tmp_path / "cases.jsonl"
    options = ["--task", task, "--out", str(listed), *(more or ["--all"])]
    assert cases.main(["sample", str(out / "all.jsonl"), *options]) == 0
    return listed


def answer(config, listed, run_dir, task, *more):
    arguments = [
        "--config",
        str(config),
        "--cases",
        str(listed),
        "--run-dir",
        str(run_dir),
        "--arm",
        "untrained",
    ]
    chosen = ["--task", task] if task else []
    return run.main([*arguments, *chosen, "--max-new-tokens", "2", "--num-prompts", "1", *more])


def figures(run_dir):
    results = write_results(run_dir)
    return results["arms"]["untrained"]["task"], headline(results)


def test_ddi_by_skin_tone(config, tmp_path, capsys):
    listed = drawn(tmp_path, ["ddi", write_ddi(tmp_path / "in")], "ddi_malignancy", "--per-class", "6")
    assert answer(config, listed, tmp_path / "run", "ddi_malignancy") == 0
    assert read_task(tmp_path / "run") == load_task("ddi_malignancy")
    rows = [json.loads(line) for line in (tmp_path / "run/cases.jsonl").read_text().splitlines()]
    assert {row["class"] for row in rows} == {"benign", "malignant"}
    assert rows[0]["groups"] == {"fitzpatrick": str(rows[0]["fitzpatrick"])}
    lines = task_lines(read_run(tmp_path / "run"), read_run(tmp_path / "run").arms["untrained"])
    assert all(list(line["class_scores"]) == ["benign", "malignant"] for line in lines)
    measured, text = figures(tmp_path / "run")
    table = measured["fairness"]["fitzpatrick"]["groups"]
    assert [(name, table[name]["n"]) for name in table] == [("all", 12), ("12", 4), ("34", 4), ("56", 4)]
    assert "AUC, skin type 56 minus 12" in text
    assert "published, for orientation: Qwen3-VL-8B" in text
    # The task of a folder is its own: it need not be named again, and another is refused.
    before = (tmp_path / "run/answers/untrained.jsonl").read_text()
    assert answer(config, listed, tmp_path / "run", None) == 0
    assert (tmp_path / "run/answers/untrained.jsonl").read_text() == before
    capsys.readouterr()
    assert answer(config, listed, tmp_path / "run", "skingpt4_15") == 1
    assert "its answers are about the task ddi_malignancy; name another --run-dir" in capsys.readouterr().err


def test_a_planted_answer_is_found_by_the_fairness_table(config, tmp_path):
    listed = drawn(tmp_path, ["ddi", write_ddi(tmp_path / "in")], "ddi_malignancy", "--per-class", "6")
    assert answer(config, listed, tmp_path / "run", "ddi_malignancy") == 0
    truth = {
        row["id"]: row for row in map(json.loads, (tmp_path / "run/cases.jsonl").read_text().splitlines())
    }
    path = tmp_path / "run/answers/untrained.jsonl"
    planted = []
    for row in map(json.loads, path.read_text().splitlines()):
        if row["kind"] == "scores":  # right on skin tones 12 and 34, never malignant on 56
            case = truth[row["case_id"]]
            malignant = case["class"] == "malignant" and case["fitzpatrick"] != 56
            row["class_scores"] = {"benign": -1.0, "malignant": 0.0 if malignant else -2.0}
        planted.append(json.dumps(row) + "\n")
    path.write_text("".join(planted))
    measured, _ = figures(tmp_path / "run")
    table = measured["fairness"]["fitzpatrick"]
    assert [table["groups"][name]["sensitivity"]["value"] for name in ("12", "34", "56", "all")] == [
        1,
        1,
        0,
        2 / 3,
    ]
    assert [table["groups"][name]["auc"]["value"] for name in ("12", "34", "56")] == [1, 1, 0.5]
    assert table["last_minus_first"]["sensitivity"]["value"] == -1


def test_lesions_are_drawn_together(config, tmp_path):
    listed = drawn(tmp_path, ["ham10000", write_ham10000(tmp_path / "in")], "ham10000_7")
    assert answer(config, listed, tmp_path / "run", "ham10000_7") == 0
    rows = [json.loads(line) for line in (tmp_path / "run/cases.jsonl").read_text().splitlines()]
    assert [row["cluster"] for row in rows] == [n // 2 for n in range(14)]
    assert "HAM_" not in (tmp_path / "run/cases.jsonl").read_text()  # ids of patients stay in the manifest
    _, text = figures(tmp_path / "run")
    assert "intervals draw the cases of one lesion_id together (14 cases in 7 clusters)" in text


def test_a_weighted_differential(config, tmp_path):
    listed = drawn(tmp_path, ["scin", write_scin(tmp_path / "in")], "scin")
    assert cases.main(["check", str(listed), "--task", "scin"]) == 0
    assert answer(config, listed, tmp_path / "run", "scin") == 0
    measured, text = figures(tmp_path / "run")
    weighted = measured["weighted_top_k"]
    assert weighted["num_cases"] == 3
    # The heaviest weights 0.69, 0.5 and 1: no ranking could hold more with one label.
    assert weighted["best_top1"]["value"] == pytest.approx((0.69 + 0.5 + 1) / 3)
    assert weighted["weight_outside"]["value"] == 0
    assert "weight of the differential in the best 3" in text


def test_concepts_alone(config, tmp_path):
    folder = write_skincon(tmp_path / "in")
    listed = drawn(tmp_path, skincon_arguments(folder), "skincon_48")
    assert answer(config, listed, tmp_path / "run", "skincon_48") == 0
    run_ = read_run(tmp_path / "run")
    assert run_.arms["untrained"].meta["probes"] == [
        "Could you describe the medical concepts of skin disease in this image for me?"
    ]
    lines = task_lines(run_, run_.arms["untrained"])
    assert {len(line["concept_scores"]) for line in lines} == {48}
    assert {line["class_scores"] for line in lines} == {None}
    measured, text = figures(tmp_path / "run")
    assert measured["multiple_choice"]["num_questions"] == 12  # two concepts of each of six pictures
    assert measured["concept_auroc"]["num_cases"] == 6
    assert "multiple choice, 12 questions of 4 options (chance 25%)" in text


@pytest.mark.parametrize(
    ("task", "write"), [("skincap_captions", write_skincap), ("dermavqa", write_dermavqa)]
)
def test_texts_alone(config, tmp_path, task, write):
    listed = drawn(tmp_path, [task.split("_")[0], write(tmp_path / "in")], task)
    assert answer(config, listed, tmp_path / "run", task) == 0
    arm = read_run(tmp_path / "run").arms["untrained"]
    assert arm.meta["scores"] is False
    assert {key.kind for key in arm.lines} == {"turn"}
    prompts = {answer.fields["prompt"] for answer in arm.lines.values()}
    expected = load_task(task).prompts[0]
    assert prompts == {
        expected if task != "dermavqa" else f"Rash on the hand It has itched for two weeks. {expected}"
    }
    measured, text = figures(tmp_path / "run")
    assert measured["text_overlap"]["num_cases"] == (2 if task == "skincap_captions" else 3)
    assert "reference" in text


def test_cases_that_a_task_cannot_judge_are_named(config, tmp_path, capsys):
    listed = drawn(tmp_path, ["ddi", write_ddi(tmp_path / "in", 4)], "ddi_malignancy")
    capsys.readouterr()
    for task, sentence in {
        "scin": "case 'case-0001' has none of the labels of the task scin under 'disease' (4 of 4 cases)",
        "skincon_48": "case 'case-0001' has no known 'concepts' (4 of 4 cases)",
        "skincap_captions": "case 'case-0001' has no text under 'x_references' (4 of 4 cases)",
    }.items():
        assert answer(config, listed, tmp_path / "run", task) == 1
        assert sentence in capsys.readouterr().err
        assert (
            cases.main(
                [
                    "sample",
                    str(tmp_path / "data/all.jsonl"),
                    "--task",
                    task,
                    "--out",
                    str(tmp_path / "x.jsonl"),
                ]
            )
            == 1
        )
        assert "no record has what the task" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert cases.main(["check", str(listed), "--task", "pad_ufes_20_6"]) == 1
    rows = [json.loads(line) for line in listed.read_text().splitlines()]
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows if row["x_malignant"] == "true"))
    capsys.readouterr()
    assert cases.main(["check", str(listed), "--task", "ddi_malignancy"]) == 0
    assert (
        "note: 1 of the 2 labels of the task ddi_malignancy have no case: benign" in capsys.readouterr().err
    )


@pytest.mark.parametrize("weight", ["much", pytest.param(10**400, id="400 digits")])
def test_a_value_that_is_no_differential_is_named_with_its_line(tmp_path, capsys, weight):
    row = {"image": "a.jpg", "disease": "eczema", "x_differential": {"Eczema": weight}}
    (tmp_path / "all.jsonl").write_text(json.dumps(row) + "\n")
    for command in ("check", "sample"):
        more = ["--out", str(tmp_path / "out.jsonl")] if command == "sample" else []
        assert cases.main([command, str(tmp_path / "all.jsonl"), "--task", "scin", *more]) == 1
        assert (
            "'x_differential' is not an object of names with weights of 0 or more" in capsys.readouterr().err
        )
