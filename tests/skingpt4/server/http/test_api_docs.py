"""The examples of docs/api.md are run as they stand, against a tiny model on another port."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from skingpt4 import __main__ as console
from skingpt4.model.build import build, build_encoder
from skingpt4.server.http.answering import Answerer
from skingpt4.server.http.routes import Api, make_app
from skingpt4.server.http.server import served
from skingpt4.support.cli import DISCLAIMER
from tests.support.tiny import make_picture, tiny_config

ROOT = Path(__file__).parents[4]
TEXT = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def example(language: str, url: str) -> str:
    (code,) = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert "http://127.0.0.1:8000" in code
    return code.replace("http://127.0.0.1:8000", url)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    config = tiny_config(tmp_path_factory.mktemp("docs"))
    model = build(config, torch.device("cpu"), build_encoder(config))
    with served(make_app(Api(Answerer(model, config, {"checkpoint": "run/1"})))) as address:
        yield address


@pytest.fixture
def folder(tmp_path):
    make_picture(1).resize((800, 600)).save(tmp_path / "lesion.jpg")
    return tmp_path


def test_python_example(url, folder):
    command = [sys.executable, "-c", example("python", url)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert DISCLAIMER in done.stdout
    assert "probability" in done.stdout.splitlines()[-1]


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl_example(url, folder):
    done = subprocess.run(["bash", "-c", example("bash", url)], cwd=folder, capture_output=True, text=True)
    events = [line.removeprefix("data: ") for line in done.stdout.splitlines() if line]
    assert events[-1] == "[DONE]", done.stdout + done.stderr
    assert json.loads(events[0])["choices"][0]["delta"]["role"] == "assistant"
    assert json.loads(events[-2])["skingpt4"]["disclaimer"] == DISCLAIMER


@pytest.mark.parametrize("command", ["http-api", "batch", "chat", "audit", "consultation-export"])
def test_options_named_in_the_text_exist(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        console.main([command, "--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    uses = re.findall(rf"skingpt4 {command} ([^`#\n]*)", TEXT)
    assert uses
    assert {option for use in uses for option in re.findall(r"--[a-z-]+", use)} <= known
