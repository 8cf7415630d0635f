"""The training command: what it prints and how it ends."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import train
from skingpt4.config.load import to_yaml
from tests.support.tiny import tiny_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("train")


@pytest.fixture
def config_path(folder, tmp_path):
    path = tmp_path / "step1.yaml"
    path.write_text(to_yaml(tiny_config(folder, output_dir=str(tmp_path / "run"))))
    return str(path)


def refused(capsys, arguments, status=1):
    """Run a command that must fail; returns its one sentence."""
    assert train.main(arguments) == status
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert "Traceback" not in err
    return err


def test_help_shows_commands_that_parse(capsys):
    with pytest.raises(SystemExit) as ended:
        train.main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "python train.py --config configs/tiny/step1.yaml" in out
    for option in ("--config", "--resume", "--overwrite", "--dry-run", "key=value"):
        assert option in out
    with pytest.raises(SystemExit) as ended:
        train.main([])
    assert ended.value.code == 2


def test_an_unknown_key_is_refused_with_the_nearest(config_path, capsys):
    message = refused(capsys, ["--config", config_path, "optim.batchsize=4"])
    assert "unknown key 'optim.batchsize'; did you mean 'optim.batch_size'?" in message
    assert "no such config" in refused(capsys, ["--config", config_path + "x"])


GONE = {
    "vision.weights": "gone/vision.safetensors",
    "qformer.weights": "gone/qformer.safetensors",
    "data.train": "[gone/train.jsonl]",
    "data.validation": "[gone/validation.jsonl]",
    "initial_checkpoint": "gone/step1",
    "language.model": "./gone/model",
}


def test_everything_that_is_missing_is_named_at_once(config_path, tmp_path, capsys):
    changes = [f"{key}={value}" for key, value in GONE.items()]
    message = refused(capsys, ["--config", config_path, *changes])
    for key, value in GONE.items():
        assert f"{key}: {value.strip('[]')} is not there" in message
    assert not (tmp_path / "run").exists()


def test_a_dry_run_that_finds_what_would_stop_the_run_fails(config_path, tmp_path, capsys):
    changes = [f"{key}={value}" for key, value in GONE.items()]
    assert train.main(["--config", config_path, "--dry-run", *changes]) == 1
    out = capsys.readouterr().out
    for value in GONE.values():
        assert any(value.strip("[]") in line and line.startswith("MISSING") for line in out.splitlines())
    assert "This run cannot start: 6 missing" in out
    assert "One sample" not in out
    assert not (tmp_path / "run").exists()


def test_a_dry_run_shows_the_run_loads_no_weights_and_writes_nothing(
    config_path, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.setattr("skingpt4.weights.files.source.safe_open", lambda *_: pytest.fail("opened"))
    before = sorted(tmp_path.rglob("*"))
    assert train.main(["--config", config_path, "--dry-run", "optim.batch_size=3"]) == 0
    out = capsys.readouterr().out
    assert "6 of 6 records have an answer in step1" in out
    assert "2 x 2 iterations of 3 x 1 samples are 2.0 passes" in " ".join(out.split())
    assert "1 linear layer: " in out
    assert "Nothing stops this run" in out
    assert "<4 image vectors>" in out
    supervised = out.rsplit(">>", 1)[1].split("<<")[0]
    assert supervised.endswith("###")
    assert "clinical concepts" in supervised
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_names_its_checkpoint_and_goes_on_only_when_asked(config_path, tmp_path, capsys):
    assert train.main(["--config", config_path, "optim.batch_size=3"]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("checkpoint: ")
    assert last.endswith("iteration_0000004")
    card = json.loads((tmp_path / "run/checkpoints/iteration_0000004/checkpoint.json").read_text())
    assert card["config"]["optim"]["batch_size"] == 3
    assert "add --resume" in refused(capsys, ["--config", config_path, "optim.batch_size=3"])
    assert train.main(["--config", config_path, "--resume", "optim.batch_size=3"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert train.main(["--config", config_path, "--overwrite"]) == 0


def test_a_conversion_of_weights_is_announced(config_path, folder, tmp_path, capsys):
    weights = tmp_path / "vision.pth"
    torch.save(load_file(folder / "vision0.safetensors"), weights)
    assert train.main(["--config", config_path, f"vision.weights={weights}", "optim.max_epoch=1"]) == 0
    assert f"converting {weights} to vision.pth.safetensors once" in capsys.readouterr().err
