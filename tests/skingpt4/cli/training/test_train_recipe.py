"""`skingpt4 train-recipe`: the steps follow each other, and what is complete is not repeated."""

import shutil
from pathlib import Path

import pytest
import yaml

from skingpt4.checkpoints import checkpoint
from skingpt4.cli.training import train_recipe
from tests.support.kill_trials import metrics_of
from tests.support.recipe_trial import NUM_ITERATIONS, bits, config_of, write_recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A recipe that was trained to its end, and a copy of its runs."""
    folder = tmp_path_factory.mktemp("recipe")
    path = write_recipe(folder, folder, "whole")
    assert train_recipe.main([str(path)]) == 0
    return path, shutil.copytree(path.with_suffix(""), folder / "copy")


@pytest.fixture
def recipe(trained):
    """The trained recipe, its runs as they were at its end."""
    path, copy = trained
    shutil.rmtree(path.with_suffix(""))
    shutil.copytree(copy, path.with_suffix(""))
    return path


def test_step_2_begins_with_what_step_1_has_made_and_given_again_nothing_is_repeated(recipe, capsys):
    first, second = (config_of(recipe, step) for step in ("step1", "step2"))
    card = checkpoint.load(second.output_dir)[1]
    assert card["parent"]["tensors_sha256"] == checkpoint.load(first.output_dir)[1]["tensors_sha256"]
    assert [line["iteration"] for line in metrics_of(second)] == list(range(1, NUM_ITERATIONS + 1))
    before, times = (
        bits(recipe),
        [f.stat().st_mtime_ns for f in sorted(recipe.with_suffix("").rglob("*.safetensors"))],
    )
    assert train_recipe.main([str(recipe)]) == 0
    assert capsys.readouterr().err.count("complete in ") == 2
    assert bits(recipe) == before
    assert times == [f.stat().st_mtime_ns for f in sorted(recipe.with_suffix("").rglob("*.safetensors"))]


def test_a_changed_first_step_is_refused_and_overwrite_trains_again(recipe, tmp_path, capsys):
    assert train_recipe.main([str(recipe), "seed=7"]) == 1
    assert "holds a run with another configuration (seed differ)" in capsys.readouterr().err
    first = Path(config_of(recipe, "step1").output_dir)
    other = write_recipe(recipe.parent, tmp_path, "other")
    assert train_recipe.main([str(other), "seed=7"]) == 0
    for kept in first.iterdir():
        kept.rename(first.parent / f"old_{kept.name}")
    for new in (other.with_suffix("") / "step1").iterdir():
        new.rename(first / new.name)
    (first / "config.yaml").write_text((first.parent / "old_config.yaml").read_text())
    assert train_recipe.main([str(recipe)]) == 1
    assert "was not trained from the step before as it is now" in capsys.readouterr().err
    assert train_recipe.main([str(recipe), "--overwrite"]) == 0


def test_a_recipe_of_step_1_alone_is_the_beginning_of_one_with_both(recipe, tmp_path, capsys):
    """So pictures can be described between them."""
    whole = write_recipe(recipe.parent, tmp_path, "both")
    alone = tmp_path / "alone.yaml"
    alone.write_text(yaml.safe_dump({"recipe": ["both_step1.yaml"], "output_dir": str(tmp_path / "both")}))
    assert train_recipe.main([str(alone)]) == 0
    assert not (tmp_path / "both" / "step2").exists()
    assert train_recipe.main([str(whole)]) == 0
    assert f"complete in {tmp_path / 'both' / 'step1'}, skipped" in capsys.readouterr().err
    assert bits(whole) == bits(recipe)


def test_a_dry_run_shows_every_step_and_writes_nothing(tmp_path, capsys):
    path = write_recipe(tmp_path, tmp_path, "dry")
    assert train_recipe.main([str(path), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "step 1 of 2: step1" in shown
    assert "step 2 of 2: step2" in shown
    words = " ".join(shown.split())
    assert "which the step before will have trained" in words
    assert words.count("memory, training") == words.count("TFLOP/s") == 2
    assert not path.with_suffix("").exists()
