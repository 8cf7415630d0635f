"""Arms that lack texts or scores, and run folders of earlier versions."""

import json

import pytest

from eval.asking.answers import read_run
from eval.measures.results import ReportError, run_lines, write_results
from skingpt4.taxonomy.taxonomy import CLASSES
from tests.support.partial_run import OLD, cases, copy_old, listed, scores, texts


def same(ours, theirs, where=""):
    """Equal keys and values everywhere; numbers to nine digits, for the libraries that compute them change."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert set(ours) == set(theirs), where
        for key in ours:
            same(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), where
        for place, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            same(a, b, f"{where}.{place}")
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12), where
    else:
        assert ours == theirs, where


@pytest.fixture
def run(tmp_path):
    """A folder of an earlier version: two arms of 6 cases, two repeats."""
    return copy_old(tmp_path / "run")


def test_an_old_run_has_the_results_it_had(run):
    ours = json.loads(json.dumps(write_results(run)))
    theirs = json.loads((OLD / "results.json").read_text(encoding="utf-8"))
    for results in (ours, theirs):
        for changing in ("libraries", "python"):
            del results["provenance"]["statistics"][changing]
    for arm in ours["arms"].values():
        for since in ("different_answers", "on_topic"):  # measured since
            arm.pop(since, None)
    same(ours, theirs)


def test_what_an_arm_lacks_is_missing_and_never_zero(run):
    scores(run, "probe")
    texts(run, "dermatologist")
    results = write_results(run)
    probe, person = results["arms"]["probe"], results["arms"]["dermatologist"]
    assert probe["top1"]["value"] == pytest.approx(4 / 6)
    assert probe["class"]["top5"]["n"] == 6
    assert not {"top1_text", "text", "concept_micro_f1", "concepts", "hallucination"} & set(probe)
    assert (probe["answers"], probe["concepts_auroc"]) == ({}, {})
    assert set(probe["groups"]["class"]) == {"top1"}
    assert person["top1_text"]["value"] == person["text"]["accuracy"]["value"] == 0.5
    assert not {"top1", "top3", "class", "calibration", "concepts", "concept_micro_f1"} & set(person)
    assert person["text"]["confusion"]["classes"] == [*CLASSES, "no answer"]
    assert set(person["answers"]) == {"turn 1"}
    assert "tokens" not in person["answers"]["turn 1"]
    assert person["answers"]["turn 1"]["seconds"]["value"] == 30
    assert "probe" not in results["text_outcomes"]
    assert results["text_outcomes"]["dermatologist"] == {"asserted": 3, "no_class": 3}


def test_arms_are_compared_in_what_both_have(run):
    scores(run, "probe")
    texts(run, "dermatologist")
    pairs = write_results(run)["pairs"]
    assert set(pairs["two_step_minus_probe"]) == {"top1"}
    assert set(pairs["two_step_minus_dermatologist"]) == {"top1_text"}
    assert "probe_minus_dermatologist" not in pairs
    assert "dermatologist_minus_probe" not in pairs
    # Holm's correction counts the pairs that have the measure: three arms with texts, three with scores.
    assert pairs["two_step_minus_probe"]["top1"]["num_tests"] == 3


def test_controls_come_last_beside_other_systems(run):
    assert list(run_lines(read_run(run))) == ["two_step", "untrained"]
    scores(run, "probe")
    assert list(run_lines(read_run(run))) == ["two_step", "probe", "untrained"]


def test_an_imported_case_is_complete_with_what_was_imported(run):
    texts(run, "dermatologist", num_answered=2, meta={"prompts": ["a", "b", "c", "d"]})
    assert len(run_lines(read_run(run))["dermatologist"]) == 2
    texts(run, "endpoint", meta={"kind": "endpoint", "prompts": ["a", "b"]})  # asked two, answered one
    assert "endpoint" not in run_lines(read_run(run))


def test_a_choice_from_a_list_ranks_nothing_and_is_not_confident(run):
    listed(run, "endpoint")
    results = write_results(run)
    arm = results["arms"]["endpoint"]
    assert arm["top1"]["value"] == arm["class"]["top1"]["value"] == pytest.approx(4 / 6)
    assert arm["class"]["confusion"]["classes"] == [*CLASSES, "no answer"]
    assert not {"top3", "calibration", "text", "top1_text"} & set(arm)
    assert not {"top3", "top5"} & set(arm["class"])
    assert results["pairs"]["two_step_minus_endpoint"]["top1"]["n"] == 6


def test_our_own_arm_without_a_complete_case_stops_the_report(run):
    (run / "answers" / "untrained.jsonl").write_text("")
    with pytest.raises(ReportError, match="arm untrained has no completely answered case"):
        run_lines(read_run(run))


def test_classes_concepts_and_groups_are_those_of_the_task(run):
    assert read_run(run).task.classes == CLASSES
    task = {"name": "two", "title": "Two", "about": "Two classes.", "classes": ["a", "b"], "concepts": ["Papule"],
            "options": {"a": ["acne"], "b": ["eczema"]}, "group_columns": ["x_site"], "sha256": "0" * 64}  # fmt: skip
    (run / "task.json").write_text(json.dumps(task))
    texts(run, "dermatologist", num_right=0)
    for place, (name, named) in enumerate(
        (("a", "a"), ("a", "b"), ("b", "b"), ("b", None), ("a", "a"), ("a", "a"))
    ):
        change_case(
            run, place, {"class": name, "concepts": [], "groups": {"x_site": "face" if place < 4 else None}}
        )
        change_answer(run, "dermatologist", place, named)
    for path in [*(run / "answers").glob("two_step.*"), *(run / "answers").glob("untrained.*")]:
        path.unlink()
    arm = write_results(run)["arms"]["dermatologist"]
    assert arm["text"]["confusion"] == {
        "classes": ["a", "b", "no answer"],
        "counts": [[3, 1, 0], [0, 1, 1], [0, 0, 0]],
    }
    site = arm["groups"]["x_site"]["top1_text"]["groups"]
    assert (site["face"]["value"], site["face"]["n"]) == (0.5, 4)
    assert (site["unknown"]["value"], site["unknown"]["n"]) == (1.0, 2)


def change_case(run, place, fields):
    rows = cases(run)
    rows[place] |= fields
    (run / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def change_answer(run, arm, place, named):
    path = run / "answers" / f"{arm}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[place] |= {"text_class": named, "text_outcome": "asserted" if named else "no_class"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
