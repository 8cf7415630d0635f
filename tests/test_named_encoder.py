"""A short YAML names an encoder of today, a language model of today and a public data set: `train.py --dry-run`.

The files have the true names and shapes of DermLIP, PanDerm and Qwen3-1.7B; their numbers are holes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import train
from data import prepare
from skingpt4.cli import weights
from tests.support.language_model_shapes import write_true_shape
from tests.support.public_sets import write_scin
from tests.support.true_shapes import panderm_shapes, thin_pth, write_dermlip

ROOT = Path(__file__).parents[1]
RECIPE = """# Mine.
extends: configs/encoders/{encoder}.yaml
step: step2
output_dir: runs/mine
language: {{model: weights/qwen3-1.7b}}
prompt: {{template: chatml}}
data: {{train: [runs/data/scin/all.jsonl]}}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A working folder as a user has it: configs, weights, and SCIN prepared by its command."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "configs/encoders", folder / "configs/encoders")
    write_dermlip(folder / "weights/dermlip_vit-b-16")
    thin_pth(folder / "weights/panderm_ll_data6_checkpoint-499.pth", panderm_shapes())
    write_true_shape(folder / "weights/qwen3-1.7b", "Qwen/Qwen3-1.7B")
    cases = write_scin(folder / "downloads")
    arguments = ["scin", str(cases), "--images", str(folder / "downloads/images"), "--workers", "1"]
    assert prepare.main([*arguments, "--out-dir", str(folder / "runs/data/scin")]) == 0
    return folder


@pytest.fixture
def dry_run(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *a, **k: pytest.fail("asked the hub"))

    def run(encoder, *changes):
        (project / f"{encoder}.yaml").write_text(RECIPE.format(encoder=encoder))
        capsys.readouterr()
        code = train.main(["--config", f"{encoder}.yaml", "--dry-run", *changes])
        return code, " ".join(capsys.readouterr().out.split())

    return run


@pytest.mark.parametrize(
    ("encoder", "layout"),
    [
        ("dermlip", "197 tokens of 768: a class token and 14 x 14 patches of 224 pixels"),
        ("panderm", "197 tokens of 1024: a class token and 14 x 14 patches of 224 pixels"),
    ],
)
def test_dermlip_or_panderm_with_qwen3_and_scin(dry_run, project, encoder, layout):
    code, report = dry_run(encoder)
    assert code == 0, report
    assert f"{layout}; every tensor of weights/" in report
    assert (
        "mlp: 2 linear layers on 4 x 4 patches (grid) and the class token; 17 tokens of the prompt" in report
    )
    assert "qwen3, 28 layers of 2048" in report
    assert "<17 image vectors>" in report
    assert "Eczema" in report or "eczema" in report or "Urticaria" in report or "Herpes" in report
    assert not (project / "runs/mine").exists()
    made = {p.name for p in (project / "weights").rglob("*")}
    assert not [name for name in made if name.endswith((".part", "pth.safetensors"))], "nothing was converted"


def test_an_encoder_that_was_not_fetched_is_named_with_its_command(dry_run):
    code, report = dry_run("monet")
    assert code == 1
    assert "hf-hub:suinleelab/monet is not here" in report
    assert "skingpt4 weights fetch hf-hub:suinleelab/monet" in report


def test_truncated_weights_are_named(dry_run, project):
    path = project / "weights/dermlip_vit-b-16/open_clip_model.safetensors"
    size = path.stat().st_size
    try:
        with path.open("r+b") as file:
            file.truncate(size - 1000)
        code, report = dry_run("dermlip")
    finally:
        with path.open("r+b") as file:
            file.truncate(size)
    assert code == 1
    assert f"is truncated, {size - 1000:,} bytes of {size:,}" in report


def test_a_qformer_of_another_width_is_one_sentence(dry_run, project):
    import torch

    query, key = torch.zeros(1).expand(1, 32, 768), torch.zeros(1).expand(768, 1408)
    name = "Qformer.bert.encoder.layer.0.crossattention.self.key.weight"
    torch.save({"model": {"query_tokens": query, name: key}}, project / "weights/blip2.pth")
    code, report = dry_run("dermlip", "projector=qformer", "qformer.weights=weights/blip2.pth")
    assert code == 1
    assert (
        "reads vision tokens 1408 wide, and the vision encoder's are 768 wide; set projector: mlp" in report
    )


@pytest.mark.parametrize("path", ["weights/dermlip_vit-b-16", "weights/panderm_ll_data6_checkpoint-499.pth"])
def test_inspect_knows_them(project, path, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert weights.main(["inspect", path]) == 0
    shown = capsys.readouterr().out
    assert f"vision.model={path}" in shown
    assert ("1024" if "panderm" in path else "768") in shown
