"""LoRA: only what should be trained changes, what is saved comes back, and off is as if it did not exist."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.load import load_model, load_projection
from skingpt4.config.load import load_config, to_yaml
from skingpt4.config.schema import Config, ConfigError, LoraConfig
from skingpt4.model import lora
from skingpt4.model.lora import LoraError
from skingpt4.training.loop import run
from skingpt4.training.optim.optimizer import make_optimizer
from skingpt4.training.resuming import run_folder
from skingpt4.weights.files.tensors import WeightsMismatch, load_tensors
from tests.support.tiny import (
    FAMILIES,
    batch_of,
    conversation,
    make_model,
    make_queries,
    tiny_config,
)

LORA = LoraConfig(rank=2, alpha=8.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lora")


@pytest.fixture
def configure(folder, tmp_path):
    def make(name="run", **changes):
        return tiny_config(folder, **{"output_dir": str(tmp_path / name), **changes})

    return make


def loss_of(model):
    rows = [conversation(model, "What is it?", "Acne."), conversation(model, "Is it?", "Psoriasis, perhaps.")]
    return model(**batch_of(rows), queries=make_queries(2))[0]


def stir(model, seed=3):
    """Branches that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in lora.trainable(model.language_model).values():
        parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_new_branches_change_nothing_and_learn_with_the_projection(folder, family):
    model = make_model(folder, family)
    before = loss_of(model).item()
    frozen = {k: v.clone() for k, v in model.language_model.state_dict().items()}
    lora.add(model.language_model, LORA, seed=0)
    assert loss_of(model).item() == before
    loss = loss_of(model)
    loss.backward()
    branches = lora.trainable(model.language_model)
    assert branches
    assert all(p.grad.abs().sum() > 0 for name, p in branches.items() if "lora_B" in name)
    optimizer = make_optimizer(model, Config().optim)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in (*model.projection.parameters(), *branches.values())}
    optimizer.step()
    assert loss_of(model).item() < before
    lora.remove(model.language_model)
    assert lora.settings_of(model.language_model) is None
    now = model.language_model.state_dict()
    assert now.keys() == frozen.keys()
    assert all(torch.equal(now[key], frozen[key]) for key in frozen)


def test_the_seed_decides_and_the_global_state_is_left_alone(folder):
    def first(seed):
        model = make_model(folder)
        state = torch.random.get_rng_state()
        lora.add(model.language_model, LORA, seed)
        assert torch.equal(state, torch.random.get_rng_state())
        return next(iter(lora.trainable(model.language_model).values()))

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_unknown_targets_are_one_sentence(folder):
    model = make_model(folder)
    with pytest.raises(LoraError, match=r"lora.targets.*nowhere"):
        lora.add(model.language_model, dataclasses.replace(LORA, targets=["nowhere"]), 0)


def test_off_is_identical_to_before(configure):
    assert lora.settings_of(make_model(Path(configure().language.model).parent).language_model) is None
    folder = run(configure())
    assert not (folder / checkpoint.LORA).exists()
    card = json.loads((folder / checkpoint.CARD).read_text())
    assert card["lora"] is None
    assert "lora_sha256" not in card


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_resumed_run_ends_in_the_same_tensors(configure, dropout):
    changes = {"lora__rank": 2, "lora__dropout": dropout, "log__checkpoint_every": 1}
    whole = run(configure("whole", **changes, log__keep_checkpoints=9))
    early = Path(configure("whole").output_dir) / "checkpoints" / "iteration_0000002"
    cut = configure("cut", **changes)
    target = Path(cut.output_dir) / "checkpoints" / early.name
    run_folder.claim(Path(cut.output_dir), to_yaml(cut), resume=True, overwrite=False)
    target.parent.mkdir()
    early.rename(target)
    halfway = load_tensors(target / checkpoint.LORA)
    resumed = run(cut, resume=True)
    for name in (checkpoint.TENSORS, checkpoint.LORA):
        one, other = load_tensors(whole / name), load_tensors(resumed / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert not all(torch.equal(other[key], halfway[key]) for key in halfway)


def test_what_is_saved_answers_alike_after_loading(configure):
    config = configure(lora__rank=2, lora__targets=["q_proj", "down_proj"], optim__init_lr=0.1)
    saved = run(config)
    card = json.loads((saved / checkpoint.CARD).read_text())
    assert card["lora"] == {"rank": 2, "alpha": 16.0, "dropout": 0.0, "targets": ["down_proj", "q_proj"]}
    model, twin = load_model(config, saved), load_model(config, None)
    without = loss_of(twin).item()
    load_projection(twin, config, saved)
    assert torch.equal(loss_of(model), loss_of(twin))
    lora.remove(twin.language_model)
    assert loss_of(twin).item() != loss_of(model).item()
    assert loss_of(twin).item() != without
    trained, total = model.num_parameters()
    tensors = {**load_tensors(saved / checkpoint.TENSORS), **load_tensors(saved / checkpoint.LORA)}
    assert trained == card["num_trainable"] == sum(t.numel() for t in tensors.values()) < total


def test_a_checkpoint_without_lora_takes_it_off(configure):
    plain = run(configure("plain"))
    config = configure()
    model = load_model(config, plain)
    expected = loss_of(model).item()
    lora.add(model.language_model, LORA, 0)
    stir(model)
    assert loss_of(model).item() != expected
    load_projection(model, config, plain)
    assert loss_of(model).item() == expected


def test_step_2_goes_on_from_step_1_s_branches_or_refuses(configure):
    first = run(configure("first", lora__rank=2))
    second = run(configure("second", initial_checkpoint=str(first), lora__rank=2))
    one, other = load_tensors(first / checkpoint.LORA), load_tensors(second / checkpoint.LORA)
    assert one.keys() == other.keys()
    assert any(not torch.equal(one[key], other[key]) for key in one)
    with pytest.raises(LoraError, match=r"was trained with LoRA \(rank 2"):
        run(configure("third", initial_checkpoint=str(first)))
    run(configure("fourth", initial_checkpoint=str(run(configure("plain"))), lora__rank=2))


def test_damaged_or_foreign_branches_are_refused(configure, folder):
    config = configure(lora__rank=2)
    saved = run(config)
    model = make_model(folder)
    with pytest.raises(WeightsMismatch, match="missing"):
        lora.restore(model.language_model, checkpoint.load(saved)[1]["lora"], {}, "x")
    with (saved / checkpoint.LORA).open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"abcd")
    with pytest.raises(checkpoint.CheckpointError, match=r"lora.safetensors.*checksum"):
        load_model(config, saved)


def test_the_configuration_refuses_impossible_values(tmp_path):
    path = tmp_path / "c.yaml"
    for line in ("rank: -1", "alpha: 0", "dropout: 1.0"):
        path.write_text(f"step: step1\noutput_dir: x\nlanguage: {{model: x}}\nlora:\n  {line}\n")
        with pytest.raises(ConfigError, match=rf"'lora\.{line.split(':')[0]}'"):
            load_config(path)
