"""The comparison of engines, with a stand-in in vLLM's place; and what it says where there is no vLLM."""

import json
import sys
import time

import pytest

from benchmarks.harness import vllm_server
from benchmarks.speed.engines import main
from skingpt4.checkpoints.merged import CARD
from skingpt4.training.loop import run
from tests.support.engine import StandInEngine, serving
from tests.support.tiny import load_language_model, tiny_config


class StandInServer:
    """What `vllm_server.Server` is, with a stand-in engine."""

    def __init__(self, environment, folder, cores, log):
        self.name = json.loads((folder / CARD).read_text())["served_model_name"]
        self.engine = StandInEngine(load_language_model(folder), self.name, seconds_a_token=0.01)
        self.port = 0
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        self.open = serving(self.engine, self.port)
        self.url = self.open.__enter__().url
        self.port = int(self.url.split(":")[2].split("/")[0])
        return 0.1

    def stop(self, kill=False):
        self.open.__exit__(None, None, None)

    def running(self):
        time.sleep(0.02)
        return self.engine.num_open


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return run(tiny_config(tmp_path_factory.mktemp("engines"), lora__rank=2))


def test_all_checks_are_made_and_both_are_measured(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(vllm_server, "build", lambda folder: {"vllm": "stand-in"})
    monkeypatch.setattr(vllm_server, "Server", StandInServer)
    out = tmp_path / "engines.json"
    arguments = ["--checkpoint", str(checkpoint), "--folder", str(tmp_path / "model"), "--cores", "0",
                 "--small", "--out", str(out)]  # fmt: skip
    assert main(arguments) == 0
    found = json.loads(out.read_text())
    assert found["checks"]["greedy"] == {
        "answers": 8, "equal": 8, "ties": [], "differing": [], "after_a_difference": 0, "ok": True,
    }  # fmt: skip
    assert found["checks"]["crowd"]["equal"] == 2
    assert found["checks"]["cancelled"]["ok"]
    assert found["checks"]["killed"]["sentences"] == found["checks"]["killed"]["answers_afterwards"] == 2
    assert [row["users"] for row in found["rates"]] == [1, 2]
    assert all(min(rates) > 0 for row in found["rates"] for rates in row["tokens_per_second"].values())
    assert "x (median of 1 pairs)" in capsys.readouterr().out


def test_where_vllm_cannot_run_the_reason_is_said(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(sys, "platform", "darwin")
        assert main(["--environment", str(tmp_path / "env")]) == 1
    assert "is built for Linux, and this is" in capsys.readouterr().err
    monkeypatch.setattr(vllm_server, "VLLM", "no-such-package-of-ours==1.0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    assert main(["--environment", str(tmp_path / "env")]) == 1
    assert "no-such-package-of-ours==1.0: ERROR: No matching distribution found" in capsys.readouterr().err
    assert not (tmp_path / "env/installed.json").exists(), "the next call tries again"
