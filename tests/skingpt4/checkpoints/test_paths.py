"""Files that a configuration names: all that are missing at once, each with how to get it."""

import pytest

from skingpt4.checkpoints.paths import how_to_get, missing_paths
from skingpt4.config.schema import Config, DataConfig, LanguageConfig, QFormerConfig, VisionConfig


def test_missing_paths_are_listed_all_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.jsonl").write_text("")
    config = Config(
        step="step2",
        output_dir="runs/new",
        initial_checkpoint="runs/gone",
        language=LanguageConfig(model="weights/lm"),
        vision=VisionConfig(weights="v.safetensors"),
        qformer=QFormerConfig(weights="q.pth"),
        data=DataConfig(train=["there.jsonl", "t.jsonl"], validation=["runs/phantoms/v.jsonl"]),
    )
    assert [line.split(" is not there")[0] for line in missing_paths(config)] == [
        "vision.weights: v.safetensors",
        "qformer.weights: q.pth",
        "data.train: t.jsonl",
        "data.validation: runs/phantoms/v.jsonl",
        "initial_checkpoint: runs/gone",
        "language.model: weights/lm",
    ]
    assert missing_paths(config)[0] == "vision.weights: v.safetensors is not there"
    chat = missing_paths(config, for_training=False)
    assert [line.split(":")[0] for line in chat] == ["vision.weights", "qformer.weights", "language.model"]
    config.language.model = "lmsys/vicuna-7b-v1.5"  # a hub id is not a path
    assert len(missing_paths(config, for_training=False)) == 2


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("weights/dinov2-vit-s14-reg4/model.safetensors", "skingpt4 weights fetch tiny"),
        ("weights/unknown.pth", "skingpt4 weights list"),
        ("runs/phantoms/step1/manifest.jsonl", "make quickstart"),
        ("runs/phantoms/step1/manifest.jsonl", "--out-dir runs/phantoms --split NAME --count N"),
        ("runs/quickstart/step2_described.jsonl", "skingpt4 describe"),
        ("runs/data/skincon/train.jsonl", "python -m data.prepare"),
        ("elsewhere/manifest.jsonl", "data/README.md"),
    ],
)
def test_each_kind_of_file_has_its_hint(path, hint):
    assert hint in how_to_get(path)


def test_a_path_of_an_unknown_kind_has_no_hint():
    assert how_to_get("elsewhere/step1") == ""
    assert how_to_get("runs/quickstart/step1") == "another training writes it; run that one first"
    assert how_to_get("runs/data/rated/train.jsonl").startswith("python -m eval.preferences")
