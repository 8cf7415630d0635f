"""Optimisers by name: what bitsandbytes' do on a CPU, what needs a GPU, and resume to the same bits."""

from pathlib import Path

import pytest
import torch

from skingpt4.checkpoints import checkpoint
from skingpt4.config.load import load_config, to_yaml
from skingpt4.config.schema import ConfigError, OptimConfig
from skingpt4.doctor.examine import examine
from skingpt4.doctor.findings import MISSING, WARNING, Facts
from skingpt4.training.loop import run
from skingpt4.training.optim.optimizer import make_optimizer
from skingpt4.training.resuming import run_folder
from skingpt4.weights.files.tensors import load_tensors
from tests.support.tiny import make_model, tiny_config

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("optimizer")


def finding(config):
    return [f for f in examine(Facts(config)) if f.name == "optimiser"]


def test_moments_of_8_bits_change_a_step_little(folder):
    """Matrices of 4,096 numbers and more have them; smaller ones keep 32 bits, so nothing else would differ."""
    steps = {}
    for name in ("adamw", "adamw_8bit"):
        model = make_model(folder)
        model.projection = torch.nn.Linear(96, 64)
        generator = torch.Generator().manual_seed(0)
        model.projection.weight.data = torch.randn(64, 96, generator=generator)
        before = model.projection.weight.detach().clone()
        optimizer = make_optimizer(model, OptimConfig(name=name, init_lr=1e-2, weight_decay=0.0))
        for _ in range(5):
            for parameter in model.projection.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        steps[name] = (model.projection.weight.detach() - before).flatten()
        kinds = {tensor.dtype for state in optimizer.state.values() for tensor in state.values()
                 if torch.is_tensor(tensor) and tensor.numel() >= 4096}  # fmt: skip
        assert kinds == {torch.uint8 if name == "adamw_8bit" else torch.float32}
    cosine = torch.nn.functional.cosine_similarity(steps["adamw"], steps["adamw_8bit"], 0)
    assert 0.98 < cosine < 0.999999


def test_decay_is_on_matrices_alone(folder):
    optimizer = make_optimizer(make_model(folder), OptimConfig(name="adamw_8bit", weight_decay=0.05))
    assert [(g["weight_decay"], {p.dim() for p in g["params"]}) for g in optimizer.param_groups] == [
        (0.05, {2}), (0.0, {1}),
    ]  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, to which it can page")
@pytest.mark.parametrize(
    ("name", "other"), [("paged_adamw_8bit", "adamw_8bit"), ("paged_adamw_32bit", "adamw")]
)
def test_a_paged_one_needs_a_gpu(name, other, folder, tmp_path):
    config = tiny_config(folder, output_dir=str(tmp_path / "run"), optim__name=name)
    with pytest.raises(
        ConfigError, match=rf"{name} moves its state .* this run is on cpu; .* optim.name={other}$"
    ):
        run(config)
    assert not (tmp_path / "run").exists()
    (line,) = finding(config)
    assert line.state == WARNING
    assert "needs a GPU" in line.text


def test_without_bitsandbytes_the_sentence_names_it(folder, monkeypatch, tmp_path):
    config = tiny_config(folder, output_dir=str(tmp_path / "run"), optim__name="adamw_8bit")
    assert finding(config) == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None)
    assert [line.state for line in finding(config)] == [MISSING]
    with pytest.raises(ConfigError, match="adamw_8bit needs bitsandbytes, which is not installed"):
        make_optimizer(make_model(folder), config.optim)


def test_a_resumed_run_ends_in_the_same_tensors(folder, tmp_path):
    def configure(name):
        return tiny_config(folder, output_dir=str(tmp_path / name), optim__name="adamw_8bit", lora__rank=64,
                           lora__targets=["up_proj"], log__checkpoint_every=1, log__keep_checkpoints=9)  # fmt: skip

    whole = run(configure("whole"))
    early = Path(configure("whole").output_dir) / "checkpoints" / "iteration_0000002"
    state = checkpoint.load_state(early, checkpoint.load(early)[1])["optimizer"]["state"]
    assert torch.uint8 in {t.dtype for s in state.values() for t in _tensors(s) if t.numel() >= 4096}
    cut = configure("cut")
    target = Path(cut.output_dir) / "checkpoints" / early.name
    run_folder.claim(Path(cut.output_dir), to_yaml(cut), resume=True, overwrite=False)
    target.parent.mkdir()
    early.rename(target)
    resumed = run(cut, resume=True)
    for name in (checkpoint.TENSORS, checkpoint.LORA):
        one, other = load_tensors(whole / name), load_tensors(resumed / name)
        assert all(torch.equal(one[key], other[key]) for key in one)


def _tensors(value):
    for item in value.values():
        if isinstance(item, dict):
            yield from _tensors(item)
        elif torch.is_tensor(item):
            yield item


def test_an_unknown_name_is_refused_with_those_there_are(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("step: step1\noutput_dir: x\nlanguage: {model: x}\noptim: {name: adam}\n")
    with pytest.raises(ConfigError, match=r"'optim.name' is 'adam'.*paged_adamw_8bit"):
        load_config(path)
