"""The training command: what it prints and how it ends."""

import json

import pytest

import train
from skingpt4.config.load import to_yaml
from tests.support.tiny import one_thread, tiny_config  # noqa: F401


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
    told = refused(capsys, ["--config", config_path, "optim.batchsize=4"])
    assert "unknown key 'optim.batchsize'; did you mean 'optim.batch_size'?" in told
    assert "no such config" in refused(capsys, ["--config", config_path + "x"])


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_everything_that_is_missing_is_told_at_once(config_path, tmp_path, capsys, dry):
    gone = {
        "vision.weights": "gone/vision.safetensors",
        "qformer.weights": "gone/qformer.safetensors",
        "data.train": "[gone/train.jsonl]",
        "data.validation": "[gone/validation.jsonl]",
        "initial_checkpoint": "gone/step1",
        "language.model": "./gone/model",
    }
    changes = [f"{key}={value}" for key, value in gone.items()]
    told = refused(capsys, ["--config", config_path, *dry, *changes])
    for key, value in gone.items():
        assert f"{key}: {value.strip('[]')} is not there" in told
    assert not (tmp_path / "run").exists()


def test_a_dry_run_shows_the_run_and_writes_nothing(config_path, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert train.main(["--config", config_path, "--dry-run", "optim.batch_size=3"]) == 0
    out = capsys.readouterr().out
    assert "2 x 2 iterations of 3 x 1 samples" in out
    assert "6, of which 6 have an answer" in out
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
