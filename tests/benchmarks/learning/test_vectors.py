"""Vectors of manifests' pictures: what the projection reads, with the labels, in a form that `learning` takes."""

import json

import numpy as np
import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.learning.stored import Stored
from skingpt4.config.load import load_config, to_yaml
from skingpt4.generation.probing.stages import image_batches
from skingpt4.model.build import build_encoder
from skingpt4.records.manifest import read_manifest
from tests.support.tiny import make_picture, tiny_config

ROWS = [
    {"image": "0.png", "disease": "acne", "class": "acne_and_rosacea"},
    {"image": "1.png", "disease": "eczema", "class": "dermatitis"},
    {"image": "2.png", "concepts": ["Papule"]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    (folder / "config.yaml").write_text(to_yaml(tiny_config(folder)))
    for number, row in enumerate(ROWS):
        make_picture(number).save(folder / row["image"])
    (folder / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "unnamed.jsonl").write_text(json.dumps(ROWS[2]) + "\n")
    return folder


def vectors(folder, manifest, out, *words):
    config = ["--config", str(folder / "config.yaml")]
    return main(["learning-vectors", str(folder / manifest), *config, "--out", str(out), *words])


def test_they_are_those_of_the_encoder_with_labels(folder, tmp_path, capsys):
    torch.manual_seed(0)  # of the encoder's random weights
    assert vectors(folder, "all.jsonl", tmp_path / "new.npz") == 0
    assert "2 pictures; 1 without disease or class were left out" in capsys.readouterr().out
    stored = Stored.read(tmp_path / "new.npz", "vectors")
    assert (*stored.diseases,) == ("acne", "eczema")
    assert (*stored.classes,) == ("acne_and_rosacea", "dermatitis")
    torch.manual_seed(0)
    config = load_config(folder / "config.yaml")
    encoder = build_encoder(config)
    images = next(image_batches(encoder, config, read_manifest(folder / "all.jsonl")))
    assert torch.allclose(stored.vectors.float(), encoder(images)[:2], atol=2e-3)
    assert [path.name for path in tmp_path.iterdir()] == ["new.npz"]
    assert (tmp_path / "new.npz").stat().st_mode & 0o077 == 0, (
        "nobody else reads what was seen of a photograph"
    )


def test_a_change_of_the_configuration_counts(folder, tmp_path):
    changes = ("projector=linear", "qformer.weights=null", "pooling.side=2")
    assert vectors(folder, "all.jsonl", tmp_path / "pooled.npz", *changes) == 0
    with np.load(tmp_path / "pooled.npz") as file:
        assert file["vectors"].dtype == np.float16
        assert file["vectors"].shape[1] in (4, 5)  # with or without a class token


def test_without_diseases_it_says_so(folder, tmp_path, capsys):
    assert vectors(folder, "unnamed.jsonl", tmp_path / "none.npz") == 1
    assert "no record has a disease and a class; name another manifest" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]
