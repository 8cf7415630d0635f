"""Our own HTTP API as an endpoint arm, over loopback; a tiny random model answers."""

import json

import pytest
import torch

from eval.add import main
from eval.asking.answers import arm_files, read_lines
from skingpt4.model.build import build, build_encoder
from skingpt4.server.http.answering import Answerer
from skingpt4.server.http.routes import Api, make_app
from skingpt4.server.http.server import served
from tests.support.tiny import save_language_model, tiny_config


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    save_language_model(folder / "llama", max_position_embeddings=4096)
    config = tiny_config(folder)
    model = build(config, torch.device("cpu"), build_encoder(config))
    identity = {"checkpoint": "run/1", "sha256": "ab" * 32, "demonstration": True, "caution": ""}
    with served(make_app(Api(Answerer(model, config, identity)))) as address:
        yield f"{address}/v1"


def test_our_own_server_is_an_arm_and_streamed_answers_equal_complete_ones(url, cases, tmp_path):
    command = ["endpoint", "--cases", str(cases), "--run-dir", str(tmp_path), "--url", url, "--model", "skingpt4",
               "--max-new-tokens", "4", "--num-prompts", "2", "--concurrency", "3"]  # fmt: skip
    assert main([*command, "--name", "streamed"]) == 0
    assert main([*command, "--name", "complete", "--no-stream"]) == 0
    card = json.loads((tmp_path / "answers/streamed.meta.json").read_text())
    assert card["served_model"] == "skingpt4"
    assert card["closed_set"] == "list in the prompt"  # our API refuses logprobs
    lines = {arm: list(read_lines(arm_files(tmp_path, arm))) for arm in ("streamed", "complete")}
    for answer in lines["streamed"]:
        assert 1 <= answer.fields["num_tokens"] <= 4
        assert answer.fields["system_fingerprint"].startswith("fp_abab")
        assert 0 < answer.fields["seconds_to_first_token"] <= answer.fields["seconds"]
    streamed, complete = ({a.key: a.text for a in each} for each in lines.values())
    assert streamed == complete
    assert len(streamed) == 6 * 5
