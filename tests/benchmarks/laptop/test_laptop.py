"""The comparison on a laptop's processor, with a stand-in for the engines; and the files that the engines read."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.harness import shapes
from benchmarks.laptop import external, sides, worker
from benchmarks.laptop.command import main
from benchmarks.laptop.files import network
from tests.benchmarks.speed.conftest import make_micro, micro  # noqa: F401
from tests.support import stand_in_worker
from tests.support.tiny import FAMILIES


@pytest.fixture
def folder(tmp_path):
    """Of a Llama of kilobytes with a stand-in tokenizer."""
    torch.manual_seed(3)
    sizes = {**FAMILIES["llama"], "vocab_size": 1100}
    model = shapes.random_language_model("llama", sizes, torch.device("cpu"), torch.float32)
    for parameter in model.parameters():
        parameter.mul_(5)  # else all tokens are nearly as likely
    model.save_pretrained(tmp_path / "model")
    shapes.stand_in_tokenizer(1100).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(external, "WORKER", Path(stand_in_worker.__file__))


class Transformers:
    """What an engine is to the worker, by transformers."""

    def __init__(self, model):
        self.model = model

    @torch.no_grad()
    def read(self, embeds, num_tokens):
        out = self.model(inputs_embeds=torch.from_numpy(embeds), use_cache=True)
        self.past = out.past_key_values
        return out.logits[:, -1].numpy()

    @torch.no_grad()
    def step(self, tokens):
        out = self.model(input_ids=torch.from_numpy(tokens)[:, None], past_key_values=self.past)
        return out.logits[:, -1].numpy()


def test_an_engine_with_the_same_weights_writes_and_reads_the_same(folder, tmp_path):
    own = sides.Own(network(folder, torch.float32), "vicuna", num_queries=4, users=3, tokens=6, max_guessed=8)
    engine = Transformers(own.model.language_model.model)
    answers = own.write(3).ids
    assert len({tuple(ids) for ids in answers}) > 1, "users have pictures of their own"
    own.save_prompts(3, tmp_path / "prompts.npy")
    prompts = np.load(tmp_path / "prompts.npy")
    assert prompts.shape[:2] == (3, len(own.prompt.input_ids))
    assert worker.generated(engine, prompts, 6)["ids"] == answers
    changed = [[*ids[:3], 9, 8, 9] for ids in answers]
    theirs, ours = worker.scored(engine, prompts, np.array(changed)), own.read(changed)
    np.testing.assert_allclose(theirs["scores"], ours.scores, atol=1e-4)
    assert theirs["ids"] == ours.ids.tolist()
    own.decoder.close()


class Given:
    """A side with fixed answers."""

    def __init__(self, written, read):
        self.written, self.reading, self.tokens = written, read, 4

    def write(self, users):
        return sides.Written(self.written[:users], 0.1)

    def read(self, answers):
        return self.reading


def test_agreement_counts_up_to_the_first_difference():
    ours, theirs = [[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 2, 3, 4], [5, 0, 7, 8]]
    here = Given(ours, sides.Read(np.array(ours), np.full((2, 4), -1.0)))
    there = Given(theirs, sides.Read(np.array(theirs), np.full((2, 4), -1.5)))
    assert sides.agreement(there, theirs, here, ours) == {
        "answers": 2, "equal_answers": 1, "tokens_before_a_difference": 5 / 8, "same_likeliest_token": 7 / 8,
        "mean_difference_nats": 0.5,
    }  # fmt: skip


def test_every_side_is_measured_and_the_same_command_goes_on(micro, tmp_path, stand_in, capsys):  # noqa: F811
    place = tmp_path / "laptop"
    arguments = [*micro, "--folder", str(place), "--openvino", sys.executable, "--llama-cpp", sys.executable]
    for side in ("in_process bfloat16", "openvino int8", "llama_cpp q4_k_m"):
        arguments += ["--only", side]
    (place / "micro").mkdir(parents=True)
    (place / "micro/fail-q4_k_m").touch()
    assert main(arguments) == 1
    assert "the engine ended: RuntimeError: no such precision here" in capsys.readouterr().err
    (place / "micro/fail-q4_k_m").unlink()
    assert main(arguments) == 0
    assert "openvino int8: measured before" in capsys.readouterr().out
    result = json.loads((tmp_path / "out.json").read_text())
    own, openvino, _ = result["rows"]
    assert [(row["engine"], row["precision"]) for row in result["rows"]] == [
        ("in_process", "bfloat16"), ("openvino", "int8"), ("llama_cpp", "q4_k_m"),
    ]  # fmt: skip
    assert own["bytes"] > 0
    assert openvino["versions"] == {"numpy": np.__version__}
    for users, rate in zip((1, 2), openvino["rates"], strict=True):
        assert rate["users"] == users
        assert rate["tokens"] == 4 * users
        assert min(*rate["ratios"], *rate["tokens_per_second"]["openvino int8"]) > 0
        assert rate["agreement"]["equal_answers"] == 0, "the stand-in writes one token only"
        assert rate["agreement"]["mean_difference_nats"] > 0


def test_an_environment_that_is_not_there_is_said(micro, tmp_path, capsys):  # noqa: F811
    arguments = [*micro, "--folder", str(tmp_path / "laptop"), "--only", "openvino int8"]
    assert main(arguments) == 1
    assert "--only openvino int8: choose of in_process bfloat16" in capsys.readouterr().err
    assert main([*arguments, "--openvino", str(tmp_path / "nothing")]) == 1
    assert "nothing: No such file or directory; name the Python of an environment" in capsys.readouterr().err
