"""Every shipped recipe is read and dry-run, on made files of the true shapes; nothing is downloaded or loaded."""

import re
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM

from benchmarks.memory.recipes import card_gb, estimate, recipes, table
from skingpt4.cli.training import train_recipe
from skingpt4.config.recipe import read_recipe
from skingpt4.doctor import memory
from skingpt4.doctor.shapes import shape_of
from skingpt4.model.prompts import get_template
from skingpt4.weights.language_model import read_configuration
from tests.support.language_model_shapes import write_true_shape
from tests.support.tiny import write_manifest

ROOT = Path(__file__).parents[3]
RECIPES = recipes(ROOT / "configs" / "recipes")
ALL = sorted(
    path
    for path in (ROOT / "configs").rglob("*.yaml")
    if "recipe" in (yaml.safe_load(path.read_text()) or {})
)


class Plenty:
    available = 512 << 30


@pytest.fixture(scope="module")
def true_shapes(tmp_path_factory):
    made = {}

    def make(hub_id):
        name = Path(hub_id).name
        if name not in made:
            made[name] = write_true_shape(tmp_path_factory.mktemp("models") / name, hub_id)
        return made[name]

    return make


def test_each_card_and_each_language_model_has_a_recipe():
    assert {card_gb(path) for path in RECIPES} == {8, 16, 24, 80}
    names = " ".join(path.stem for path in RECIPES)
    for model in (
        "qwen3_1.7b",
        "qwen3_4b",
        "qwen3_8b",
        "llama3.2_3b",
        "gemma3_4b",
        "medgemma_4b",
        "falcon_7b",
        "vicuna_7b",
    ):
        assert model in names
    assert {re.search("_(q?lora)_", path.stem)[1] for path in RECIPES} == {"lora", "qlora"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_a_few_lines_and_says_what_its_name_does(path):
    assert len(path.read_text().splitlines()) <= 9
    steps = read_recipe(path)
    assert [step.name for step in steps] == ["step1", "step2"]
    assert steps[1].config.initial_checkpoint == steps[0].config.output_dir
    for step in steps:
        assert step.config.language.quantization == ("nf4" if "_qlora_" in path.stem else "none")
        assert step.config.lora.rank > 0
        assert step.config.optim.batch_size * step.config.optim.accumulation == 16


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_dry_run_on_files_of_the_true_shape(path, true_shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("loaded a model")
    )
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *a, **k: pytest.fail("asked the hub"))
    monkeypatch.setattr("psutil.virtual_memory", Plenty)
    config = read_recipe(path)[0].config
    folder = true_shapes(config.language.model)
    manifest = write_manifest(tmp_path / "train.jsonl", 8)
    argv = [
        str(path), "--dry-run", "--output-dir", str(tmp_path / "runs"), f"language.model={folder}",
        f"data.train=[{manifest}]", f"data.validation=[{manifest}]", "data.allow_overlap=true",
        "vision.weights=null", "vision.model_args={depth: 1}", "qformer.weights=null", "optim.name=adamw",
        "initial_checkpoint=null",
    ]  # fmt: skip
    assert train_recipe.main(argv) == 0
    shown = capsys.readouterr().out
    assert shown.count("Nothing stops this run") == 2
    assert "MISSING" not in shown
    assert "which the step before will have trained" in " ".join(shown.split())
    published = shape_of(config.language.model)
    assert f"{published.num_parameters / 1e6:,.0f} M parameters" in " ".join(shown.split())
    assert f"LoRA of rank {config.lora.rank}" in " ".join(shown.split())
    # the prompt of the family, with its supervised end, as the sample shows it
    template = get_template(config.prompt.template)
    assert f"{template.end}<<" in shown
    assert shown.count("<32 image vectors>") == 2
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_loras_targets_are_layers_of_the_family(path, true_shapes):
    config = read_recipe(path)[0].config
    shape = shape_of(config.language.model)
    names = {name for name, _, _ in shape.matrices}
    assert set(config.lora.targets) == names  # all of them, as QLoRA does
    assert memory.lora_parameters(shape, config.lora.rank, config.lora.targets) > 10e6


def test_medgemmas_language_model_is_read_out_of_its_multimodal_configuration(true_shapes):
    folder = true_shapes("google/medgemma-4b-it")
    text = read_configuration(folder, local_only=True)
    assert text.model_type == "gemma3_text"
    assert shape_of(folder) == shape_of("google/medgemma-4b-it")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_fits_its_card(path):
    """By the estimate, with a sixth of the card to spare; no card was measured."""
    for step in read_recipe(path):
        assert memory.gib(estimate(step.config)) < card_gb(path) * 5 / 6


def test_the_page_shows_the_computed_table(monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "recipes.md").read_text()
    assert table() in page
    assert "estimated" in page
    assert "python -m benchmarks memory-recipes" in page


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_read(path):
    for step in read_recipe(path):
        get_template(step.config.prompt.template)
        assert not step.notes
