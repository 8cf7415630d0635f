"""A language model in parts computes what a complete one does, and communicates no more than it must."""

import json
import os

import pytest

from skingpt4.config.schema import ConfigError
from skingpt4.training.distributed.launchers import ASKED
from skingpt4.training.distributed.sharding import asked
from tests.support.sharding_trial import FSDP2, SETTINGS
from tests.support.tiny import tiny_config

NUM_LAYERS = 2


@pytest.fixture(scope="module")
def found(launcher, tmp_path_factory):
    """What each of two processes saw, see tests/support/sharding_trial.py."""
    folder = tmp_path_factory.mktemp("sharding")
    job = launcher.start(["tests.support.sharding_trial", str(folder)], folder / "log", world=2)
    assert job.wait() == [0, 0], job.text()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_and_gradients_are_those_of_the_complete_model(name, found):
    for seen in (rank[name] for rank in found):
        assert seen["loss_of_parts"] == pytest.approx(seen["loss"], rel=1e-6)
        assert seen["same_names"]
        assert seen["difference"] <= 1e-6 * max(1.0, seen["gradient_size"])
        assert seen["gradient_size"] > 1e-3  # there was something to compare


@pytest.mark.parametrize("name", SETTINGS)
def test_only_frozen_layers_are_in_parts(name, found):
    for seen in (rank[name] for rank in found):
        assert not [one for one in seen["complete"] if ".0." in one and "lora_" not in one]
        assert any("embed" in one for one in seen["complete"])
        assert seen["bytes"] < 0.9 * seen["bytes_of_whole"]
        assert "FSDP2: 2 " in seen["notes"][0]
    halves = [rank["llama"]["bytes"] - 0.5 * rank["llama"]["bytes_of_whole"] for rank in found]
    assert halves[0] == halves[1] > 0  # even parts, beside embeddings and head


def test_no_gradient_is_communicated_and_no_layer_is_gathered_in_vain(found):
    """Each layer is gathered forward and backward, the last one stays from one to the other."""
    gathered = {name: found[0][name]["calls"] for name in SETTINGS}
    assert gathered["llama"] == {"all_gather_into_tensor": 2 * NUM_LAYERS - 1}
    assert gathered["lora"] == gathered["recomputed"] == gathered["offloaded"] == gathered["llama"]
    assert gathered["kept"] == {"all_gather_into_tensor": NUM_LAYERS}


def test_the_first_process_alone_reads_the_weights(found):
    assert [rank["read_by_first"]["reads"] for rank in found] == [1, 0]
    assert [rank["tied"]["reads"] for rank in found] == [1, 0]
    assert [rank["llama"]["reads"] for rank in found] == [1, 1]


def test_the_place_is_that_of_the_own_part(found):
    assert "cpu" in found[1]["llama"]["place"]
    assert "stored in the host's memory" in found[0]["offloaded"]["notes"][0]
    assert "recomputed" in found[0]["recomputed"]["notes"][0]


# ---- what is refused


@pytest.fixture
def launched(monkeypatch):
    def set_environment(**variables):
        for name, value in {**FSDP2, **variables}.items():
            monkeypatch.setenv(name, value)

    return set_environment


@pytest.mark.parametrize(
    ("variables", "changes", "sentence"),
    [
        ({"FSDP_VERSION": "1"}, {}, "only FSDP2 is supported; set fsdp_version: 2"),
        ({"FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}, {}, "set fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP"),
        (
            {"FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD": "true"},
            {},
            "fsdp_activation_checkpointing_offload is not",
        ),
        (
            {"FSDP_RESHARD_AFTER_FORWARD": "FULL_SHARD"},
            {},
            "fsdp_config: .*compare it with configs/accelerate",
        ),
        ({}, {"language__quantization": "nf4"}, r"language\.quantization: nf4 cannot be sharded"),
    ],
)
def test_what_cannot_be_sharded_is_refused(variables, changes, sentence, launched, tmp_path):
    launched(**variables)
    with pytest.raises(ConfigError, match=sentence), asked(tiny_config(tmp_path, **changes)):
        pass


def test_the_libraries_do_not_see_that_sharding_was_asked_for(launched, tmp_path):
    launched()
    with asked(tiny_config(tmp_path)) as sharding:
        assert sharding.plugin.fsdp_version == 2
        assert os.environ[ASKED] == "false"
    assert os.environ[ASKED] == "true"


def test_without_fsdp_nothing_is_sharded(tmp_path, monkeypatch):
    monkeypatch.delenv(ASKED, raising=False)
    with asked(tiny_config(tmp_path)) as sharding:
        assert sharding is None
