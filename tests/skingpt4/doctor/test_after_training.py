"""`skingpt4 doctor --after-training` and `python -m eval.probe` on a trained tiny run."""

import json
from pathlib import Path

import pytest

from eval import probe
from skingpt4.cli import doctor
from skingpt4.doctor.after_training import advice
from skingpt4.generation.probing.lost import Lost
from skingpt4.generation.probing.probes import Accuracy
from skingpt4.training.loop import run
from tests.support.tiny import tiny_config, write_manifest

CLASSES = ("psoriasis_and_lichen_planus", "herpes")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on two classes with a validation manifest; (folder, run)."""
    folder = tmp_path_factory.mktemp("after")
    for name, first in (("train", 0), ("validation", 500)):
        lines = []
        for number, label in enumerate(CLASSES):
            part = write_manifest(
                folder / f"{name}{number}.jsonl", 6, first + 50 * number, **{"class": label}
            )
            lines.append(Path(part).read_text())
        (folder / f"{name}_all.jsonl").write_text("".join(lines))
    changes = {
        "data__train": [str(folder / "train_all.jsonl")],
        "data__validation": [str(folder / "validation_all.jsonl")],
    }
    return folder, str(run(tiny_config(folder, output_dir=str(folder / "run"), **changes)))


def test_the_doctor_prints_four_numbers_and_advice(trained, capsys):
    _, checkpoint = trained
    assert doctor.main(["--after-training", checkpoint]) == 0
    text = capsys.readouterr().out
    for name in ("vision encoder's tokens", "Q-Former's queries", "projection's output", "language model"):
        assert name in text
    assert text.count("n = 12") == 4
    assert "not a medical device" in text
    assert doctor.main(["--after-training", checkpoint, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["stages"]) == ["tokens", "queries", "projection", "language_model"]
    assert report["advice"]


def test_the_probe_writes_its_figures(trained, tmp_path, capsys):
    folder, checkpoint = trained
    out = tmp_path / "new" / "probe.json"
    manifests = ["--train", str(folder / "train_all.jsonl"), "--test", str(folder / "validation_all.jsonl")]
    assert probe.main(["--checkpoint", checkpoint, *manifests, "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["n_train"] == 12
    assert {"python", "torch", "scikit-learn"} <= set(figures["versions"])
    assert figures["stages"]["language_model"]["n"] == 12
    assert figures["model"]["sha256"]
    assert (
        probe.main(["--checkpoint", checkpoint, *manifests, "--stage", "tokens", "--label", "disease"]) == 0
    )
    assert "disease by logistic regression" in capsys.readouterr().out
    assert probe.main(["--checkpoint", checkpoint, *manifests[:2], "--test", manifests[1]]) == 1
    assert "shares records" in capsys.readouterr().err


def lost(*right):
    stages = ("tokens", "queries", "projection", "language_model")
    return Lost({stage: Accuracy(count, 100) for stage, count in zip(stages, right, strict=True)}, 0.1)


def test_the_advice_names_the_stage():
    assert "skingpt4 pretrain-qformer" in advice(lost(80, 40, 40, 35))
    assert "optim.disease_weight" in advice(lost(80, 78, 78, 30))
    assert "metrics.jsonl" in advice(lost(80, 80, 40, 38))
    assert "may be chance" in advice(lost(80, 78, 78, 78))
    assert "no more than chance" in advice(lost(11, 10, 10, 10))
    assert advice(lost(80, 80, 81, 82)).startswith("No stage loses")


def test_a_run_without_validation_is_named(trained, capsys):
    folder, _ = trained
    own = str(run(tiny_config(folder, output_dir=str(folder / "bare"))))
    assert doctor.main(["--after-training", own]) == 1
    assert "data.validation" in capsys.readouterr().err
