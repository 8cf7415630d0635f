"""The learning curve on stored vectors of a random network: its points, its probe, what it refuses, and once only."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.learning.curve import READINGS, table
from skingpt4.config.load import to_yaml
from tests.support.tiny import tiny_config

DISEASES = {"acne": "acne_and_rosacea", "psoriasis": "psoriasis_and_lichen_planus", "eczema": "dermatitis"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A configuration, and vectors in which each disease has its own direction."""
    folder = tmp_path_factory.mktemp("learning")
    config = tiny_config(folder)
    (folder / "config.yaml").write_text(to_yaml(config))
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((len(DISEASES), 32)) * 2
    for name, count in (("train", 48), ("test", 12)):
        disease = np.array([list(DISEASES)[number % 3] for number in range(count)])
        vectors = rng.standard_normal((count, 4, 32)) * 0.3
        vectors += np.stack([directions[number % 3] for number in range(count)])[:, None]
        np.savez(
            folder / f"{name}.npz", vectors=vectors.astype(np.float16), disease=disease,
            class_name=np.array([DISEASES[d] for d in disease]),
        )  # fmt: skip
    return folder


def curve(folder, out, *overrides):
    files = ["--train", str(folder / "train.npz"), "--test", str(folder / "test.npz")]
    words = ["--config", str(folder / "config.yaml"), *files, "--points", "0", "3", "--out", str(out)]
    return main(["learning", *words, *overrides])


@pytest.mark.parametrize("inputs", ["raw", "discriminants"])
def test_points_and_probe(inputs, folder, tmp_path, capsys):
    out = tmp_path / "curve.json"
    assert curve(folder, out, f"projection.inputs={inputs}", "prompt.use_concepts=false") == 0
    result = json.loads(out.read_text())
    assert result["complete"]
    assert [point["iteration"] for point in result["points"]] == [0, 3]
    assert result["points"][1]["loss"] > 0
    for point in result["points"]:
        assert {point[name]["top1"]["n"] for name in READINGS} == {12}
    other = {**result, "overrides": ["seed=8"]}
    result["overrides"] = ["seed=7"]
    head, _, *rows = (line.split("|")[1:-1] for line in table([result, other]).splitlines())
    assert head[1:] == [" seed 7 ", " seed 8 "]
    assert [len(row) for row in rows] == [3] * 6
    assert result["probe"]["value"] > 0.9
    assert result["regression"]["value"] > 0.9
    capsys.readouterr()
    assert curve(folder, out) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_other_coordinates_train_otherwise(folder, tmp_path):
    losses = []
    for inputs in ("raw", "discriminants"):
        out = tmp_path / f"{inputs}.json"
        assert curve(folder, out, f"projection.inputs={inputs}", "prompt.use_concepts=false") == 0
        losses.append(json.loads(out.read_text())["points"][1]["loss"])
    assert losses[0] != pytest.approx(losses[1], abs=1e-3)


def test_two_layers_read_the_pooled_tokens_of_the_configuration(folder, tmp_path, capsys):
    mlp = ("projector=mlp", "prompt.use_concepts=false", "pooling.class_token=false")
    losses = []
    for projector in (mlp, mlp[1:]):
        out = tmp_path / f"{len(projector)}.json"
        assert curve(folder, out, *projector, "pooling.side=2") == 0
        losses.append(json.loads(out.read_text())["points"][1]["loss"])
    assert losses[0] != pytest.approx(losses[1], abs=1e-3)
    assert curve(folder, tmp_path / "o.json", *mlp, "pooling.side=1") == 1
    assert "mlp reads 1 vectors of width 32 of a picture, and the file has 4 of" in capsys.readouterr().err


def test_lora_is_trained_beside_the_projection(folder, tmp_path):
    losses = []
    for rank in (0, 4):
        out = tmp_path / f"{rank}.json"
        assert (
            curve(folder, out, f"lora.rank={rank}", "lora.targets=[q_proj]", "prompt.use_concepts=false") == 0
        )
        losses.append(json.loads(out.read_text())["points"][1]["loss"])
    assert losses[0] != losses[1]


def test_a_preference_for_some_names_is_taken_off_by_other_cases(folder, tmp_path, monkeypatch):
    with np.load(folder / "test.npz") as file:
        vectors, diseases = file["vectors"].astype(np.float32), file["disease"]
    names = list(DISEASES)

    def scorer(model, prompt, closed_set):
        """Right about the picture, but for many nats in favour of the first name."""

        def scores(queries):
            true = diseases[np.abs(vectors - queries[0][0].numpy()).max((1, 2)).argmin()]
            return np.array(
                [[4.0 * (d.name == true) + 9.0 * (d.name == names[0]) for d in closed_set.diseases]]
            )

        return SimpleNamespace(scores=scores)

    monkeypatch.setattr("benchmarks.learning.curve.DiseaseScorer", scorer)
    out = tmp_path / "curve.json"
    assert curve(folder, out, "prompt.use_concepts=false") == 0
    point = json.loads(out.read_text())["points"][0]
    assert point["plain"]["top1"]["value"] == pytest.approx(1 / 3, abs=1e-4)
    assert point["calibrated"]["top1"]["value"] == 1.0


def test_a_qformer_can_be_trained_on_the_vectors_first(folder, tmp_path):
    out = tmp_path / "new" / "curve.json"
    changes = ("--qformer-steps", "6", "prompt.use_concepts=false", "seed=3")
    assert curve(folder, out, *changes) == 0
    result = json.loads(out.read_text())
    assert result["qformer"]["steps"] == 6
    assert result["qformer"]["seed"] == 3
    assert result["probe_of_vectors"]["settings"]["num_features"] == 2 * 32
    assert result["probe"]["settings"]["num_features"] == 2 * tiny_config(folder).qformer.width
    assert result["points"][1]["loss"] > 0
    assert [file.name for file in out.parent.iterdir()] == ["curve.json"]
    vectors, queries = table([result]).splitlines()[2:4]
    assert f"{100 * result['probe_of_vectors']['value']:.1f} %" in vectors
    assert f"{100 * result['probe']['value']:.1f} %" in queries


def test_files_without_vectors_are_refused(folder, tmp_path, capsys):
    np.savez(tmp_path / "train.npz", other=np.zeros(3))
    assert main(["learning", "--train", str(tmp_path / "train.npz"), "--test", str(folder / "test.npz"),
                 "--config", str(folder / "config.yaml"), "--out", str(tmp_path / "o.json")]) == 1  # fmt: skip
    assert "has no arrays vectors, disease and class_name" in capsys.readouterr().err
