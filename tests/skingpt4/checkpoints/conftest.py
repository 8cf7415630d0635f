"""A trained checkpoint, and the folder that `share` makes of it."""

import os
from pathlib import Path

import pytest

from skingpt4.checkpoints import repository
from skingpt4.training.loop import run
from tests.support.tiny import tiny_config


@pytest.fixture(scope="module")
def working_folder(tmp_path_factory):
    """Paths inside the working folder are published as relative ones, so they lead to the parts here too."""
    folder, before = tmp_path_factory.mktemp("checkpoint"), Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def config(working_folder):
    return tiny_config(working_folder, lora__rank=2, optim__init_lr=0.1)


@pytest.fixture(scope="module")
def saved(config):
    return run(config)


@pytest.fixture(scope="module")
def shared(saved, tmp_path_factory):
    return repository.write_folder(saved, tmp_path_factory.mktemp("shared") / "tiny-skin", "tiny-skin")
