"""What is read of tokens and queries, on a random backbone, and the table of it."""

import json

from safetensors.torch import save_file

from benchmarks.__main__ import main
from benchmarks.learning.qformers import table
from skingpt4.config.load import to_yaml
from skingpt4.model.build import build_encoder
from tests.support.tiny import tiny_config


def test_tokens_and_queries_of_both_kinds_of_pictures(tmp_path, monkeypatch, capsys):
    config = tiny_config(tmp_path)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    qformer = build_encoder(config).qformer
    save_file(qformer.state_dict(), tmp_path / "random.safetensors")
    monkeypatch.setattr("benchmarks.learning.qformers.FOLDER", tmp_path / "pictures")
    out, words = tmp_path / "out.json", ["--config", str(tmp_path / "config.yaml"), "--small"]
    assert main(["qformers", str(tmp_path / "random.safetensors"), *words, "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert list(rows) == ["tokens", "random"]
    for row in rows.values():
        assert (row["drawings"]["n"], row["drawings"]["num_labels"]) == (48, 15)
        assert (row["photographs"]["n"], row["photographs"]["num_train"]) == (48, 48)
    printed = table({"rows": rows})
    assert printed.splitlines()[2].startswith("| tokens |")
    assert printed.splitlines()[2].count(" 1.00 |") == 2
    assert printed in capsys.readouterr().out
