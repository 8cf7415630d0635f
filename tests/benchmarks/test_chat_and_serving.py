"""The benchmarks of the chat on a tiny network: both ways do the same work, and what is written says so."""

import json

import pytest
import torch

from benchmarks import chat, serving
from benchmarks.chat import Consultation
from benchmarks.serving import Crowd
from skingpt4.config import to_yaml
from skingpt4.model import build, build_encoder
from tests.skingpt4.tiny import one_thread, tiny_config  # noqa: F401


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    config = tiny_config(folder, compat="minigpt4")
    (folder / "config.yaml").write_text(to_yaml(config))
    return folder, config, build(config, torch.device("cpu"), build_encoder(config))


def test_both_consultations_begin_alike_and_ours_reads_less(tiny):
    _, config, model = tiny
    talk = Consultation(model, config, (6, 9, 4))
    ours, theirs = talk.ours(), talk.yardstick()
    assert talk.told["ours"][0] == talk.told["yardstick"][0] != ""
    assert [len(answers) for answers in talk.told.values()] == [3, 3]
    assert talk.num_tokens["ours"][0] == talk.num_tokens["yardstick"][0] <= 6
    assert ours.keys() == theirs.keys()
    assert "first token of turns 2 to 4" in ours
    assert all(value > 0 for value in (*ours.values(), *theirs.values()))
    assert talk.num_read[1] < talk.num_read[0]


def test_the_command_writes_what_was_measured(tiny, tmp_path, capsys):
    folder, _, _ = tiny
    out = tmp_path / "chat.json"
    arguments = ["--config", str(folder / "config.yaml"), "--pairs", "1", "--out", str(out)]
    assert chat.main([*arguments, "--lengths", "3", "4"]) == 0
    told = json.loads(out.read_text())
    assert told["same_answers"][0] is True
    assert told["num_tokens"]["ours"][0] == told["num_tokens"]["yardstick"][0] == 3
    assert told["command"].startswith("python -m benchmarks.chat --config")
    assert set(told["bars"]) == set(chat.BARS)
    assert told["commit"]
    assert "first token of turn 2" in capsys.readouterr().out
    assert chat.main([*arguments, "--lengths", "0"]) == 1
    assert "error: --pairs must be" in capsys.readouterr().err


def test_users_are_served_alike_together_and_one_after_the_other(tiny, tmp_path, capsys):
    folder, config, model = tiny
    crowd = Crowd(model, config, num_users=3, max_new_tokens=6)
    figures = crowd.serve(3)
    crowd.serve(1)
    assert crowd.answers[3] == crowd.answers[1]
    assert [len(answers) for answers in crowd.answers[3]] == [2, 2, 2]
    assert 0 < figures["mean seconds to first token"] <= figures["longest seconds to first token"]
    out = tmp_path / "serving.json"
    arguments = [
        "--config",
        str(folder / "config.yaml"),
        "--users",
        "1",
        "2",
        "--pairs",
        "1",
        "--out",
        str(out),
    ]
    assert serving.main([*arguments, "--max-new-tokens", "4"]) == 0
    told = json.loads(out.read_text())["users"]
    assert [row["num_users"] for row in told] == [1, 2]
    assert all(row["same_answers"] and row["tokens_per_second"]["ours"] > 0 for row in told)
    assert "2 users" in capsys.readouterr().out
