"""What is read at each stage of a checkpoint of a random network, and the table of it."""

import json
from pathlib import Path

from benchmarks.__main__ import main
from benchmarks.learning.stages import table
from skingpt4.checkpoints import checkpoint
from skingpt4.training.loop import run
from tests.support.tiny import tiny_config


def test_each_stage_of_a_checkpoint(tmp_path, monkeypatch, capsys):
    config = tiny_config(tmp_path, optim__max_epoch=1, optim__iters_per_epoch=1)
    run(config)
    monkeypatch.setattr("benchmarks.learning.qformers.FOLDER", tmp_path / "pictures")
    out = tmp_path / "out.json"
    assert main(["stages", config.output_dir, "--small", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    found = result["checkpoints"][config.output_dir]
    assert result["num_train"] == 48
    assert found["step"] == "step1"
    assert found["sha256"] == checkpoint.load(config.output_dir)[1]["tensors_sha256"]
    assert {stage["n"] for stage in found["stages"].values()} == {48}
    printed = table(result)
    assert printed in capsys.readouterr().out
    head, _, *rows = printed.splitlines()
    assert f"`{Path(config.output_dir).name}`" in head
    assert [row.split("|")[1].strip() for row in rows] == [
        "tokens",
        "queries",
        "projection",
        "language model",
    ]
