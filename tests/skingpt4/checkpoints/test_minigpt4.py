"""MiniGPT-4's layout of a projection: read for a start, refused where it does not fit, written for its demo."""

import json

import pytest
import torch
from transformers import AutoConfig

from skingpt4.checkpoints import checkpoint, load, minigpt4
from skingpt4.checkpoints.load import LoadError, load_model, load_projection, model_source
from skingpt4.cli.deploy.share import export
from skingpt4.training.loop import run
from skingpt4.weights.files.tensors import WeightsMismatch
from tests.skingpt4.weights.files.test_tensors import Payload
from tests.support.tiny import (
    QUERY_WIDTH,
    make_model,
    tiny_config,
)

WIDTH = 32


def published(path, width=WIDTH, query_width=QUERY_WIDTH, **changes):
    """A file as MiniGPT-4 writes it: the projection, buffers of the language model, the optimiser's state."""
    model = {
        "llama_proj.weight": torch.randn(width, query_width).half(),
        "llama_proj.bias": torch.randn(width).half(),
        "llama_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
    }
    torch.save({"model": model | changes, "optimizer": {"lr": 1e-4}, "config": {"a": 1}, "epoch": 3}, path)
    return model | changes


def test_the_projection_loads_in_fp32_and_all_else_is_passed_over(tmp_path):
    held = published(tmp_path / "prerelease.pth")
    model, config = make_model(tmp_path), tiny_config(tmp_path)
    card = load_projection(model, config, tmp_path / "prerelease.pth")
    assert torch.equal(model.projection.weight, held["llama_proj.weight"].float())
    assert torch.equal(model.projection.bias, held["llama_proj.bias"].float())
    assert model.projection.weight.requires_grad
    assert card["layout"] == "minigpt4"
    assert not list(tmp_path.glob("*.pth.safetensors"))  # too small to be converted


def test_training_starts_from_it_and_records_where_it_came_from(tmp_path):
    published(tmp_path / "prerelease.pth")
    config = tiny_config(tmp_path, initial_checkpoint=str(tmp_path / "prerelease.pth"))
    run(config)
    _, card = checkpoint.load(config.output_dir)
    assert card["parent"]["path"] == config.initial_checkpoint
    assert card["parent"]["tensors_sha256"] == minigpt4.read(config.initial_checkpoint)[1]["tensors_sha256"]


@pytest.mark.parametrize(("vocabulary", "warned"), [(32000, True), (32001, False)])
def test_another_vicuna_of_the_same_width_is_pointed_out(vocabulary, warned, tmp_path, monkeypatch, caplog):
    published(tmp_path / "minigpt4.pth", 4096, 768)
    language_model = AutoConfig.for_model("llama", hidden_size=4096, vocab_size=vocabulary)
    monkeypatch.setattr(load, "configuration", lambda name: language_model)
    config = tiny_config(tmp_path)
    config.qformer.width = 768
    load.require_projection_width(config, tmp_path / "minigpt4.pth")
    assert ("was trained with Vicuna v0 (32,001 tokens)" in caplog.text) == warned


def test_a_chat_needs_its_configuration(tmp_path):
    published(tmp_path / "prerelease.pth")
    config = tiny_config(tmp_path, step="none", initial_checkpoint=str(tmp_path / "prerelease.pth"))
    load_model(config, config.initial_checkpoint)
    with pytest.raises(LoadError, match="knows no configuration; add --config"):
        model_source(None, config.initial_checkpoint)


def test_the_projection_of_four_joined_tokens_is_refused_by_name(tmp_path):
    published(tmp_path / "llama2.pth", 4096, 5632)
    for what in (minigpt4.shape_of, minigpt4.read, checkpoint.load):
        with pytest.raises(
            WeightsMismatch, match=r"is \[4096, 5632\], MiniGPT-4's later projection for Llama-2"
        ):
            what(tmp_path / "llama2.pth")


@pytest.mark.parametrize(
    ("width", "family"), [(4096, "7B Llama and Vicuna"), (5120, "13B Llama and Vicuna"), (64, "64 wide")]
)
def test_another_width_is_refused_before_the_heavy_load(width, family, tmp_path, monkeypatch):
    path = tmp_path / "wide.pth"
    published(path, width, 768)
    config = tiny_config(tmp_path, initial_checkpoint=str(path))
    monkeypatch.setattr("skingpt4.checkpoints.load.build", None)
    monkeypatch.setattr("skingpt4.training.distributed.sharding.build", None)
    for heavy in (lambda: load_model(config, path), lambda: run(config)):
        with pytest.raises(WeightsMismatch) as caught:
            heavy()
        message = str(caught.value)
        assert f"is [{width}, 768], this network needs [{WIDTH}, {QUERY_WIDTH}]" in message
        assert family in message


def test_what_is_no_projection_is_refused(tmp_path):
    torch.save({"model": {"query_tokens": torch.zeros(1)}}, tmp_path / "blip2.pth")
    with pytest.raises(WeightsMismatch, match=r"lacks llama_proj\.weight and .*holds query_tokens"):
        checkpoint.load(tmp_path / "blip2.pth")
    torch.save({"model": Payload(tmp_path / "trace")}, tmp_path / "code.pth")
    with pytest.raises(WeightsMismatch, match="pickle with code"):
        checkpoint.load(tmp_path / "code.pth")
    assert not (tmp_path / "trace").exists()
    published(tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:700])
    with pytest.raises(WeightsMismatch, match="truncated"):
        checkpoint.load(tmp_path / "cut.pth")


@pytest.fixture
def saved(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "weight": torch.randn(5, 3, generator=generator).t(),
        "bias": torch.randn(3, generator=generator),
    }
    return checkpoint.save(tmp_path / "ours", tensors, {"step": "step2", "iteration": 4}), tensors


def test_an_export_is_what_the_original_demo_reads(saved, tmp_path, capsys):
    folder, tensors = saved
    out = tmp_path / "new" / "out.pth"
    assert export(["--checkpoint", str(folder), "--minigpt4", str(out)]) == 0
    assert f"{out}: llama_proj [3, 5]" in capsys.readouterr().out
    held = torch.load(out, map_location="cpu", weights_only=True)
    assert list(held["model"]) == ["llama_proj.weight", "llama_proj.bias"]
    assert {t.dtype for t in held["model"].values()} == {torch.float32}
    assert torch.equal(held["model"]["llama_proj.weight"], tensors["weight"])
    original = torch.nn.Module()
    original.llama_proj = torch.nn.Linear(5, 3)
    assert not original.load_state_dict(held["model"], strict=False).unexpected_keys
    assert torch.equal(original.llama_proj.bias, tensors["bias"])
    again, _ = minigpt4.read(out)  # and the way back
    assert all(torch.equal(again[name], value) for name, value in tensors.items())


def test_an_export_overwrites_nothing_unasked_and_leaves_nothing_half_written(
    saved, tmp_path, capsys, monkeypatch
):
    folder, _ = saved
    out = tmp_path / "out.pth"
    out.write_bytes(b"mine")
    args = ["--checkpoint", str(folder), "--minigpt4", str(out)]
    assert export(args) == 1
    assert "exists already; name another file or add --overwrite" in capsys.readouterr().err

    def full_disk(value, file):
        file.write(b"half")
        raise RuntimeError("[enforce fail] unexpected pos 64 vs 0")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        assert export([*args, "--overwrite"]) == 1
    assert "cannot be written" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
    assert not list(tmp_path.glob(".out*"))
    assert export([*args, "--overwrite"]) == 0
    assert minigpt4.shape_of(out) == (3, 5)


def test_what_the_layout_cannot_hold_is_not_exported(saved, tmp_path, capsys):
    folder, _ = saved
    card = json.loads((folder / checkpoint.CARD).read_text())
    (folder / checkpoint.CARD).write_text(
        json.dumps({**card, "lora": {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": ["q_proj"]}})
    )
    assert export(["--checkpoint", str(folder), "--minigpt4", str(tmp_path / "out.pth")]) == 1
    assert "was trained with LoRA" in capsys.readouterr().err
    assert export(["--checkpoint", str(tmp_path / "gone"), "--minigpt4", str(tmp_path / "out.pth")]) == 1
    assert export(["--checkpoint", str(folder), "--minigpt4", str(tmp_path / "out.bin")]) == 1
    assert not (tmp_path / "out.pth").exists()
