"""A start from labels: lower losses than at random, the same bits again, added to an earlier step's projection."""

import json
from pathlib import Path

import pytest
import torch

from skingpt4.checkpoints import checkpoint
from skingpt4.config.schema import ConfigError
from skingpt4.model.projection import Projection
from skingpt4.records.record import RecordError
from skingpt4.training.loop import run
from skingpt4.training.prepare import prepare
from skingpt4.training.start import from_labels
from tests.support.tiny import tiny_config, write_manifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("start")


@pytest.fixture
def configure(folder, tmp_path):
    def make(name="run", start="labels", **changes):
        manifest = write_manifest(folder / "labelled.jsonl", count=12)
        return tiny_config(
            folder, output_dir=str(tmp_path / name), data__augment=False, data__train=[manifest],
            data__feature_cache=str(tmp_path / "cache"), projection__start=start,
            projection__start_iterations=30, optim__batch_size=4, **changes,
        )  # fmt: skip

    return make


def first_loss(config):
    run(config)
    lines = (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    return next(json.loads(line)["loss"] for line in lines if json.loads(line)["kind"] == "train")


def test_the_first_loss_is_lower_than_at_random(configure):
    assert first_loss(configure()) < 0.9 * first_loss(configure("random", start="random"))


def test_words_are_learned_once_and_the_start_has_the_same_bits(configure, monkeypatch):
    first = prepare(configure(), torch.device("cpu")).model.projection
    monkeypatch.setattr(from_labels, "_measure", lambda *_: pytest.fail("learned twice"))
    again = prepare(configure(), torch.device("cpu")).model.projection
    assert isinstance(again, Projection)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert again.weight.requires_grad


def test_after_another_step_it_is_added_to_its_projection(configure):
    step1 = run(configure("step1", optim__max_epoch=1))
    tensors, _ = checkpoint.load(step1)
    config = configure("step2", initial_checkpoint=str(step1))
    config.step = "step2"
    started = prepare(config, torch.device("cpu")).model.projection.weight.detach()
    before = tensors["weight"]
    assert started.shape == before.shape
    assert not torch.equal(started, before)
    cosine = torch.cosine_similarity(started.flatten(), before.flatten(), dim=0)
    assert cosine > 0.1  # the earlier step is still there


@pytest.mark.parametrize("inputs", ["standardised", "whitened"])
def test_other_coordinates_keep_the_start(configure, inputs):
    plain = prepare(configure(), torch.device("cpu")).model
    other = prepare(configure(projection__inputs=inputs), torch.device("cpu")).model
    queries = torch.randn(2, 4, 32)
    expected = plain.projection(queries)
    assert torch.allclose(other.projection(other.input_map(queries)), expected, atol=1e-3)


def test_it_needs_one_linear_layer_and_cached_features(configure):
    with pytest.raises(ConfigError, match=r"projection\.start"):
        prepare(configure(projector="mlp", pooling__side=2), torch.device("cpu"))
    config = configure()
    config.data.feature_cache = None
    with pytest.raises(ConfigError, match=r"data\.feature_cache"):
        prepare(config, torch.device("cpu"))


def test_records_without_labels_are_refused(configure, folder):
    config = configure()
    config.data.train = [
        write_manifest(folder / "notes.jsonl", concepts=None, disease=None, note="See a doctor.")
    ]
    with pytest.raises(RecordError, match="none of the 6 records has a concept or disease"):
        prepare(config, torch.device("cpu"))
