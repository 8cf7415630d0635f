"""The benchmarks of the chat on tiny networks: both ways do the same work, and what is written says so."""

import json

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.harness import shapes
from benchmarks.speed import chat, serving
from benchmarks.speed.chat import Consultation, Passes
from benchmarks.speed.serving import Crowd
from skingpt4.doctor import memory
from skingpt4.model.build import build, build_encoder
from tests.support.tiny import tiny_config


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    config = tiny_config(tmp_path_factory.mktemp("benchmark"), compat="minigpt4")
    return config, build(config, torch.device("cpu"), build_encoder(config))


@pytest.fixture(params=["llama", "falcon"])
def micro(request, make_micro):
    return make_micro(request.param, "--dtype", "float32")


def result_of(argv):
    assert main(argv) == 0
    with open(argv[-1], encoding="utf-8") as file:
        return json.load(file)


def test_both_consultations_begin_alike_and_ours_reads_less(tiny):
    config, model = tiny
    talk = Consultation(model, config, (6, 9, 4))
    ours, theirs = talk.ours(), talk.baseline()
    assert talk.answers["ours"][0] == talk.answers["yardstick"][0] != ""
    assert [len(answers) for answers in talk.answers.values()] == [3, 3]
    assert talk.num_tokens["ours"][0] == talk.num_tokens["yardstick"][0] <= 6
    assert ours.keys() == theirs.keys()
    assert "first token of turns 2 to 4" in ours
    assert all(value > 0 for value in (*ours.values(), *theirs.values()))
    assert talk.num_read[1] < talk.num_read[0]
    # The pass that reads a prompt gives the answer's first token, so without guesses there is a pass a token.
    assert talk.passes["yardstick"] == sum(talk.num_tokens["yardstick"])
    assert talk.passes["ours"] <= sum(talk.num_tokens["ours"])


def test_passes_are_counted_while_it_is_open_and_no_longer(tiny):
    language_model = tiny[1].language_model
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad(), Passes(language_model) as passes:
        language_model(input_ids=ids)
        language_model(input_ids=ids)
    with torch.no_grad():
        language_model(input_ids=ids)
    assert passes.number == 2


def test_a_consultation_with_random_weights_is_the_same_both_ways(micro, capsys):
    found = result_of(["chat", *micro])
    assert found["command"].startswith("python -m benchmarks chat --shape micro --device cpu")
    assert (found["shape"], found["dtype"], found["max_guessed"]) == ("micro", "float32", 0)
    assert found["num_tokens"] == {"ours": [4, 3, 2, 2], "yardstick": [4, 3, 2, 2]}
    assert found["same_answers"] == [True] * 4
    assert found["passes"] == {"ours": 11, "yardstick": 11}
    # What was said is read again as the same tokens: a later turn reads the question and what stands around it.
    first, *later = found["num_read_tokens_ours"]
    assert max(later) < first
    measured = found["measured"]
    rate = found["roofline"]["ours"]["bytes_per_second"]
    expected = 11 * found["weights_read_a_pass_bytes"] / measured["ours"]["seconds"][0]
    assert rate == pytest.approx(expected, rel=1e-3)
    assert measured["ours"]["peak_bytes_above_weights"][0] is not None
    assert set(found["bars"]) == set(chat.BARS)
    text = capsys.readouterr().out
    assert "first token of turn 4" in text
    assert "ours: 11 tokens in 11 passes; roofline: " in text
    assert "peak memory" in text


def test_a_guess_that_comes_true_saves_a_pass(micro):
    config = shapes.configuration(shapes.SHAPES["micro"])
    config.compat = "minigpt4"
    model = shapes.network(shapes.SHAPES["micro"], config, torch.device("cpu"), torch.float32)
    talk = Consultation(model, config, (60,))
    talk.ours()
    talk.baseline()
    assert talk.answers["ours"] == talk.answers["yardstick"]
    assert talk.passes["ours"] < talk.passes["yardstick"] == 60


def test_users_are_served_alike_together_and_one_after_the_other(tiny):
    config, model = tiny
    crowd = Crowd(model, config, num_users=3, max_new_tokens=6)
    figures = crowd.serve(3)
    crowd.serve(1)
    assert crowd.answers[3] == crowd.answers[1]
    assert [len(answers) for answers in crowd.answers[3]] == [2, 2, 2]
    assert crowd.num_tokens[3] == crowd.num_tokens[1]
    assert crowd.passes[3][0] <= crowd.num_tokens[3]
    assert 0 < figures["mean seconds to first token"] <= figures["longest seconds to first token"]


def test_a_row_of_users_has_its_rates_and_rooflines(micro, capsys):
    found = result_of(["serving", *micro])
    assert found["command"].startswith("python -m benchmarks serving --shape micro")
    assert [row["num_users"] for row in found["users"]] == [1, 2]
    for row in found["users"]:
        assert row["users_with_same_answers"] == row["num_users"]
        for side in ("ours", "yardstick"):
            assert row[side]["num_tokens"] == 2 * 4 * row["num_users"]
            assert row[side]["tokens_per_second"] > 0
            assert row[side]["roofline"]["copy_share"] > 0
        assert row["yardstick"]["passes"] == row["yardstick"]["num_tokens"] >= row["ours"]["passes"]
    assert "2 users" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["chat", "serving"])
def test_what_cannot_be_measured_is_refused(name, micro, monkeypatch, capsys):
    command = {"chat": chat, "serving": serving}[name]
    assert command.main(["--checkpoint", "somewhere", *micro]) == 1
    assert "only --shape tiny" in capsys.readouterr().err
    wrong = {"chat": ["--lengths", "0"], "serving": ["--max-rows", "1"]}[name]
    assert command.main([*wrong, *(word for word in micro if word != "--small")]) == 1
    assert "must be at least 1" in capsys.readouterr().err
    monkeypatch.setattr(memory, "weight_bytes", lambda *args: 10**15)
    assert command.main(micro) == 1
    assert "needs about" in capsys.readouterr().err


@pytest.mark.acceptance
@pytest.mark.default
@pytest.mark.parametrize("name", ["chat", "serving"])
def test_the_bundled_default_runs(name, tmp_path):
    found = result_of([name, "--device", "cpu", "--small", "--out", str(tmp_path / "out.json")])
    assert (found["shape"], found["max_guessed"]) == ("tiny", 8)
