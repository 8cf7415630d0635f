"""An answer is by default as long as the answers that the model was trained on, wherever it is asked for."""

import argparse
from pathlib import Path

import pytest

from eval.asking.answering import RunSettings
from skingpt4.generation.sampling import Generation
from skingpt4.server.http.answering import Answerer
from skingpt4.server.http.request import read_request
from skingpt4.server.page.tools import for_model
from skingpt4.support.cli import add_generation_arguments, generation_options
from tests.support.tiny import make_model, tiny_config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny_config(tmp_path_factory.mktemp("length"), data__max_text_tokens=70)


def test_without_a_configuration_it_is_the_configurations_default(config):
    assert Generation().max_new_tokens == type(config.data)().max_text_tokens


@pytest.mark.parametrize(("words", "length"), [([], 70), (["--max-new-tokens", "9"], 9)])
def test_on_the_command_line(words, length):
    parser = argparse.ArgumentParser()
    add_generation_arguments(parser)
    assert generation_options(parser.parse_args(words), 70)["max_new_tokens"] == length


@pytest.mark.parametrize(("chosen", "length"), [(None, 70), (9, 9)])
def test_in_the_evaluation(chosen, length, config):
    settings = RunSettings(config, Path("cases.jsonl"), Path("run"), (), max_new_tokens=chosen)
    assert settings.setting([]).generation.max_new_tokens == length


@pytest.mark.parametrize(("keys", "length"), [({}, 70), ({"max_tokens": 9}, 9)])
def test_over_http_and_on_the_page(keys, length, config, tmp_path):
    model = make_model(tmp_path)
    request = read_request({"messages": [{"role": "user", "content": "What is it?"}]} | keys)
    assert Answerer(model, config, {}).new_answer(request).generation.max_new_tokens == length
    assert for_model(model, config, {}).answer_tokens == 70
