"""Recipes: which values a step gets, where it begins and writes, and what is refused."""

import pytest

from skingpt4.config.load import load_config
from skingpt4.config.recipe import read_recipe
from skingpt4.config.schema import ConfigError


@pytest.fixture
def write(tmp_path):
    def make(text, name="recipe.yaml", **files):
        for stem, content in files.items():
            (tmp_path / f"{stem}.yaml").write_text(content)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return make


STEPS = {
    "one": "step: step1\noutput_dir: runs/one\nlanguage: {model: hub/one}\noptim: {batch_size: 3, init_lr: 0.1}\n",
    "two": "step: step2\noutput_dir: runs/two\ninitial_checkpoint: runs/one\nlanguage: {model: hub/one}\n",
    "part": "language: {model: hub/shared}\nlora: {rank: 4}\n",
}


def test_a_list_of_files_is_a_recipe(write):
    one, two = read_recipe(write("recipe: [one.yaml, two.yaml]\n", **STEPS))
    assert one.config == load_config(write("", **STEPS).parent / "one.yaml")
    assert (one.name, two.name) == ("one", "two")
    assert two.config.initial_checkpoint == "runs/one"
    assert one.notes == two.notes == ()


def test_what_stands_beside_lies_over_the_steps_files_and_below_their_own_keys(write):
    text = (
        "recipe:\n  - one.yaml\n  - {extends: two.yaml, lora: {alpha: 3}, optim: {batch_size: 7}}\n"
        "extends: part.yaml\noptim: {batch_size: 5}\noutput_dir: runs/mine\n"
    )
    one, two = (step.config for step in read_recipe(write(text, **STEPS), ["seed=9"]))
    assert (one.language.model, two.language.model) == ("hub/shared", "hub/shared")
    assert (one.optim.batch_size, two.optim.batch_size) == (5, 7)
    assert one.optim.init_lr == 0.1  # of the step's file
    assert (one.lora.rank, one.lora.alpha, two.lora.alpha) == (4, 16, 3)
    assert (one.output_dir, two.output_dir) == ("runs/mine/step1", "runs/mine/step2")
    assert (one.initial_checkpoint, two.initial_checkpoint) == (None, "runs/mine/step1")
    assert (one.seed, two.seed) == (9, 9)


def test_a_step_begins_where_the_one_before_ended_whatever_its_file_says(write):
    text = "recipe: [one.yaml, two.yaml]\noutput_dir: runs/mine\n"
    steps = read_recipe(write(text, **STEPS), output_dir="runs/other")
    assert [step.config.output_dir for step in steps] == ["runs/other/step1", "runs/other/step2"]
    assert steps[1].config.initial_checkpoint == "runs/other/step1"
    assert steps[1].notes == ("starts from runs/other/step1, the step before, and not from runs/one",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step: step1\n", "has no key 'recipe'.*train.py --config"),
        ("recipe: []\n", "must list 1 to 20 steps"),
        ("recipe: one.yaml\n", "must list 1 to 20 steps"),
        ("recipe: [3]\n", "step 1: must be a file or the keys"),
        ("recipe: [none.yaml]\n", "none.yaml: no such config"),
        ("recipe: [one.yaml, one.yaml]\n", "step 2: has the folder of an earlier step, runs/one"),
        ("recipe: [one.yaml]\noptin: {}\n", "optin.*did you mean 'optim'"),
        ("recipe: [{extends: one.yaml, optim: {batch_size: 0}}]\n", "step 1: 'optim.batch_size' is 0"),
        ("recipe: [recipe.yaml]\n", "recipe.yaml: extends itself through recipe.yaml"),
    ],
)
def test_what_is_no_recipe_is_refused(text, message, write):
    with pytest.raises(ConfigError, match=message):
        read_recipe(write(text, **STEPS))


def test_a_folder_or_step_for_all_steps_is_refused(write):
    with pytest.raises(ConfigError, match="same for all steps; name a folder for all with --output-dir"):
        read_recipe(write("recipe: [one.yaml, two.yaml]\n", **STEPS), ["output_dir=runs/x"])


def test_a_recipe_is_no_configuration(write):
    path = write("recipe: [one.yaml]\n", **STEPS)
    with pytest.raises(ConfigError, match="is a recipe of several steps; run it with skingpt4 train-recipe"):
        load_config(path)
