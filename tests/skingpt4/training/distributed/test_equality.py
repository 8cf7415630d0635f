"""Two processes against one at the same global batch, with complete models and with layers in parts (FSDP2).

Loss, trained tensors, optimiser state and held-out loss agree to 1e-6 in fp32, after several steps that add up
micro-batches; so do runs that are resumed by another number of processes.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.load import load_model
from skingpt4.config.load import to_yaml
from tests.support.kill_trials import metrics_of
from tests.support.sharding_trial import FSDP2
from tests.support.tiny import tiny_config, write_manifest

TOLERANCE = 1e-6
NUM_ITERATIONS = 4
IN_PARTS = {**FSDP2, "FSDP_CPU_RAM_EFFICIENT_LOADING": "true", "FSDP_ACTIVATION_CHECKPOINTING": "true"}
TRAINED = {"projection": {}, "lora": {"lora__rank": 2}}


class Runs:
    """Runs of one configuration, each started as processes of its own."""

    def __init__(self, launcher, folder, changes):
        self.launcher, self.folder = launcher, folder
        defaults = {
            "data__train": [write_manifest(folder / "train.jsonl", 9)],
            # Five, so that one process has fewer of them, and fewer batches.
            "data__validation": [write_manifest(folder / "held_out.jsonl", 5, first=100)],
            "data__feature_cache": str(folder / "features"), "data__augment": False,
            "optim__accumulation": 2, "optim__init_lr": 3e-4, "language__compile": "never",
            "log__checkpoint_every": 1, "log__keep_checkpoints": 9, "log__validate_every": 2,
        }  # fmt: skip
        self.config = tiny_config(folder / "model", **defaults | changes)

    def start(self, name, world, environment=None, *arguments):
        """A run in `world` processes; returns its configuration."""
        config = replace(
            self.config, output_dir=str(self.folder / name),
            optim=replace(self.config.optim, batch_size=4 // world),
        )  # fmt: skip
        path = self.folder / f"{name}.yaml"
        path.write_text(to_yaml(config))
        job = self.launcher.start(
            ["train", "--config", str(path), *arguments],
            self.folder / f"{name}.log",
            world,
            **environment or {},
        )
        assert job.wait() == [0] * world, job.text()
        return config

    def resumed(self, name, source, iteration, world, environment=None):
        """A copy of a run as it was after `iteration`, continued to its end."""
        shutil.copytree(source.output_dir, self.folder / name)
        for path in (self.folder / name / "checkpoints").iterdir():
            if int(path.name.rpartition("_")[2]) > iteration:
                shutil.rmtree(path)
        return self.start(name, world, environment, "--resume")


@pytest.fixture(scope="module", params=TRAINED)
def runs(request, launcher, tmp_path_factory):
    runs = Runs(launcher, tmp_path_factory.mktemp(request.param), TRAINED[request.param])
    runs.one = runs.start("one", 1)
    runs.complete = runs.start("complete", 2)
    runs.in_parts = runs.start("in_parts", 2, IN_PARTS)
    return runs


def lines_of(config, kind):
    return [line for line in metrics_of(config) if line["kind"] == kind]


def tensors_of(config, iteration=NUM_ITERATIONS):
    """Trained tensors and optimiser state after an iteration, by name."""
    path = Path(config.output_dir) / "checkpoints" / f"iteration_{iteration:07d}"
    tensors, card = checkpoint.load(path)
    tensors = tensors | checkpoint.load_lora(path, card)
    state = checkpoint.load_state(path, card)["optimizer"]
    for number, values in state["state"].items():
        tensors |= {f"{number}.{key}": value for key, value in values.items()}
    return tensors


def assert_same_run(run, reference, relative=0.0):
    for kind, count in (("train", NUM_ITERATIONS), ("validation", NUM_ITERATIONS // 2)):
        lines, expected = lines_of(run, kind), lines_of(reference, kind)
        assert [line["iteration"] for line in lines] == [line["iteration"] for line in expected]
        assert len(lines) == count
        for key in ("loss", "num_tokens", "gradient_norm", "learning_rate"):
            if key in expected[0]:
                assert [line[key] for line in lines] == pytest.approx(
                    [line[key] for line in expected], rel=TOLERANCE, abs=TOLERANCE
                )
    tensors, expected = tensors_of(run), tensors_of(reference)
    assert tensors.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            tensors[key], value, rtol=relative, atol=TOLERANCE, msg=lambda m, k=key: f"{k}: {m}"
        )


def test_there_is_something_to_compare(runs):
    """The tensors move by far more than the tolerance, and the optimiser's state is not zero."""
    first, last = tensors_of(runs.one, 1), tensors_of(runs.one)
    moved = {key for key in first if float((last[key] - first[key]).abs().max()) > 100 * TOLERANCE}
    assert {"weight", "bias"} <= moved
    assert any("lora" in key for key in moved) == bool(runs.config.lora.rank)
    assert any(key.endswith("exp_avg") for key in moved)


def test_two_processes_equal_one(runs):
    assert_same_run(runs.complete, runs.one)


def test_two_processes_with_layers_in_parts_equal_one(runs):
    assert_same_run(runs.in_parts, runs.one)


def test_from_two_processes_to_one_and_back(runs):
    """Begun with layers in parts, continued by one process, and then in parts again."""
    alone = runs.resumed("alone", runs.in_parts, 2, 1)
    assert_same_run(alone, runs.one)
    assert_same_run(runs.resumed("again", alone, 3, 2, IN_PARTS), runs.one)


def test_a_checkpoint_of_a_model_in_parts_is_one_like_any_other(runs):
    files = [
        sorted(path.name for path in checkpoint.find(run.output_dir).iterdir())
        for run in (runs.one, runs.in_parts)
    ]
    assert files[0] == files[1]
    # It loads where nothing is in parts, and gives the known answer that it was saved with.
    model = load_model(runs.in_parts, runs.in_parts.output_dir, torch.device("cpu"), with_encoder=False)
    assert not model.language_model.is_sharded
    trained = tensors_of(runs.in_parts)
    assert torch.equal(model.projection.weight, trained["weight"])


PREFERRED, OTHER = (
    [{"question": "What is it?", "answer": text}] for text in ("See a doctor.", "Do nothing.")
)


@pytest.mark.parametrize("what", ["discriminants", "dpo"])
def test_what_is_computed_before_a_run(what, launcher, tmp_path):
    """By the first process alone, or by all together where the model lies in parts: the same either way."""
    if what == "discriminants":
        changes = {"projection__inputs": "discriminants"}
    else:
        parent = Runs(launcher, tmp_path / "parent", {}).start("parent", 1)
        pairs = write_manifest(tmp_path / "pairs.jsonl", 6, turns=PREFERRED, rejected=OTHER)
        changes = {"step": "dpo", "initial_checkpoint": parent.output_dir, "data__train": [pairs],
                   "data__validation": [pairs]}  # fmt: skip
    alone = Runs(launcher, tmp_path / "alone", changes).start("alone", 1)
    complete = Runs(launcher, tmp_path / "complete", changes).start("complete", 2)
    in_parts = Runs(launcher, tmp_path / "in_parts", changes).start("in_parts", 2, IN_PARTS)
    assert_same_run(in_parts, complete)
    assert_same_run(complete, alone, TOLERANCE)  # folded tensors are in the tens, where fp32 is coarser
