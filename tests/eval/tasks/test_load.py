import json
import re

import pytest

from eval.tasks.load import TASK, TaskError, available, load_task, read_task, write_task
from skingpt4.taxonomy import taxonomy

OWN = """
name: two_tumours
title: Two tumours
about: A test.
classes:
  melanoma: [melanoma]
  melanocytic nevus: [melanocytic nevus, mole]
"""


def own(tmp_path, text=OWN):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    return path


def test_the_default_is_the_published_evaluation():
    task = load_task()
    assert task.classes == taxonomy.CLASSES
    assert task.options == {name: (taxonomy.class_disease(name),) for name in taxonomy.CLASSES}
    assert task.concepts == taxonomy.CONCEPTS
    assert (task.question, task.answer_form, task.prompts, task.cases_wording) == (None, None, None, True)
    assert task.label_of({"class": "herpes", "disease": "eczema"}) == "herpes"
    assert task.label_of({"class": "others"}) is None
    assert task.label_of({"class": None, "disease": "eczema"}) is None


def test_bundled_tasks_are_named_after_their_files():
    assert [load_task(name).name for name in available()] == available()


def test_a_label_is_read_in_any_spelling(tmp_path):
    task = load_task(own(tmp_path))
    # A label, an option, the taxonomy's synonyms (nevus, MM), its British spelling; and what is no label.
    for value, label in {
        "melanoma": "melanoma", "Mole": "melanocytic nevus", "melanocytic naevi": "melanocytic nevus",
        "malignant melanoma": "melanoma", "psoriasis": None, "unknown": None, "": None, "what is this": None,
    }.items():  # fmt: skip
        assert task.label_of({"disease": value}) == label, value
    assert task.label_of({}) is None


def test_values_are_mapped(tmp_path):
    task = load_task(
        own(tmp_path, OWN + "label: {key: x_malignant, values: {true: melanoma, FALSE: melanocytic nevus}}\n")
    )
    assert task.label_of({"x_malignant": True}) == "melanoma"
    assert task.label_of({"x_malignant": "False"}) == "melanocytic nevus"
    assert task.label_of({"x_malignant": None}) is None


def test_a_runs_folder_remembers_its_task(tmp_path):
    task = load_task(
        own(tmp_path, OWN + "published: [{system: A, metric: top-1, value: 0.5, source: a paper}]\n")
    )
    write_task(tmp_path, task)
    assert read_task(tmp_path) == task
    assert json.loads((tmp_path / TASK).read_text())["sha256"] == task.sha256


def test_a_folder_without_a_task_has_the_default(tmp_path):
    write_task(tmp_path, load_task())
    assert not (tmp_path / TASK).exists()
    assert read_task(tmp_path) == load_task()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("metric: [top_k]", r"'metric' is not a key of a task; did you mean 'metrics'\?"),
        ("metrics: [top_1]", r"'metrics.0': .*top_k.* \(it is 'top_1'\); correct it"),
        ("metrics: [fairness]", r"'metrics': 'fairness' needs 'positive', which is not given"),
        ("metrics: [weighted_top_k]", r"'metrics': 'weighted_top_k' needs 'differential'"),
        ("metrics: [multiple_choice]", r"'choices': 4 options cannot be drawn from 2"),
        ("positive: Melanom", r"'positive': 'Melanom' is none of the labels; did you mean 'melanoma'\?"),
        ("label: {key: dx}", r"'label.key': 'dx' is not a key of a record; keys of your own begin with x_"),
        ("label: {key: x_dx, values: {nv: nevus}}", r"'label.values': 'nevus' is none of the labels"),
        ("answer_form: It is a mole.", r"'answer_form': needs {disease}"),
        ("list_question: Which?", r"'list_question': needs {options}"),
        ("list_question: 'Which? {options} {options:>4000000000}'", r"'list_question': .* no placeholder"),
        ("list_question: 'Which? {options} {options.__class__}'", r"'list_question': .* no placeholder"),
        ("list_question: 'Which? {options} {0}'", r"'list_question': .* no placeholder"),
        ("list_question: 'Which? {options} {'", r"'list_question': .* no placeholder"),
        ("answer_form: '{disease} {disease:>4000000000}'", r"'answer_form': .* no placeholder"),
        ("answer_form: 'It is {disease}, {concepts}.'", r"'answer_form': .* no placeholder"),
        ("concepts: [Plak]", r"'concepts': 'Plak' is none of SKINCON's 48"),
        ("published: [{system: A, metric: F1, value: much, source: B}]", r"'published.0.value': .*'much'"),
        ("published: [{system: A, metric: F1, value: 0.1}]", r"'published.0.source' is missing; add it"),
        ("name: again", r"is not YAML that can be read"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, change, sentence):
    path = own(tmp_path, OWN + change + "\n")
    with pytest.raises(TaskError, match=re.escape(str(path)) + ": .*" + sentence):
        load_task(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a\n", "is not a task"),
        ("title: A\nabout: B\n", "'name' is missing; add it"),
        (OWN.replace("mole]", "melanoma]"), "'classes': 'melanoma' stands for 2 labels"),
        ("name: a\ntitle: A\nabout: B\nclasses: [a]\n", "'classes': holds one label"),
    ],
)
def test_files_that_are_no_tasks(tmp_path, text, sentence):
    with pytest.raises(TaskError, match=re.escape(sentence)):
        load_task(own(tmp_path, text))


def test_an_unknown_name_and_a_missing_file(tmp_path):
    with pytest.raises(TaskError, match=r"skingpt4_51: is no task; did you mean 'skingpt4_15'\?"):
        load_task("skingpt4_51")
    with pytest.raises(TaskError, match=r"none\.yaml: no such file; python -m eval\.tasks lists"):
        load_task(tmp_path / "none.yaml")


def test_the_list_for_systems_that_choose(tmp_path):
    assert (
        load_task(own(tmp_path))
        .list_text()
        .startswith("Which of the following does the image show? melanoma; melanocytic nevus.")
    )
    assert "acne and rosacea; malignant lesions" in load_task().list_text()


def test_groups_of_a_record(tmp_path):
    task = load_task(own(tmp_path, OWN + "group_columns: [fitzpatrick, x_sex]\n"))
    assert task.group_of({"fitzpatrick": 12, "x_sex": "n/a"}) == {"fitzpatrick": "12", "x_sex": "unknown"}


def test_labels_that_no_case_has(tmp_path):
    assert load_task(own(tmp_path)).missing_labels(["melanoma"]) == ["melanocytic nevus"]
