"""What files and directories are said to be, on small files with the published names and shapes."""

import json
import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from skingpt4.checkpoints import checkpoint
from skingpt4.config.schema import QFormerConfig
from skingpt4.model.qformer import QFormer
from skingpt4.weights.files.headers import UnreadableWeights
from skingpt4.weights.files.inspect_directory import inspect
from skingpt4.weights.files.inspection import KINDS, describe
from tests.support import tiny
from tests.support.true_shapes import sparse_safetensors as meta_file


def eva_shapes(depth=39, width=1408, hidden=6144):
    block = {
        "norm1.weight": [width], "norm1.bias": [width], "attn.q_bias": [width], "attn.v_bias": [width],
        "attn.qkv.weight": [3 * width, width], "attn.proj.weight": [width, width], "attn.proj.bias": [width],
        "norm2.weight": [width], "norm2.bias": [width], "mlp.fc1.weight": [hidden, width],
        "mlp.fc1.bias": [hidden], "mlp.fc2.weight": [width, hidden], "mlp.fc2.bias": [width],
    }  # fmt: skip
    return {
        "cls_token": [1, 1, width], "pos_embed": [1, 257, width], "patch_embed.proj.weight": [width, 3, 14, 14],
        "patch_embed.proj.bias": [width],
        **{f"blocks.{n}.{name}": shape for n in range(depth) for name, shape in block.items()},
    }  # fmt: skip


def lavis_qformer(width=32, encoder=48, layers=4):
    """The names of LAVIS's file, turned back from our own module's."""
    state = QFormer(QFormerConfig(None, 4, width, layers, 2, 64), encoder).state_dict()
    renamed = {"query_tokens": state.pop("query_tokens")}
    for key, value in state.items():
        key = key.removeprefix("model.").replace("layernorm.", "embeddings.LayerNorm.", 1)
        key = key.replace(".attention.attention.", ".attention.self.")
        key = key.replace(".crossattention.attention.", ".crossattention.self.")
        renamed[f"Qformer.bert.{key}"] = value
    return renamed | {"ln_vision.weight": torch.ones(encoder), "ln_vision.bias": torch.zeros(encoder)}


def test_eva_at_full_size_from_its_header(tmp_path):
    inspection = inspect(meta_file(tmp_path / "eva.safetensors", eva_shapes()))
    assert inspection.kind == "lavis_eva"
    assert inspection.usable
    facts = {"family": "eva", "width": 1408, "num_layers": 39, "patch_size": 14, "image_size": 224}
    assert inspection.details.items() >= facts.items()
    assert inspection.num_bytes == pytest.approx(1.97e9, rel=0.01), "1 B parameters in half precision"
    assert "configs/paper/base.yaml" in inspection.fits


def test_the_names_are_timms_and_lavis_files_are_pth(tmp_path):
    state = timm.create_model(tiny.EVA, img_size=56, num_classes=0, **tiny.EVA_ARGS).state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("norm.")}, tmp_path / "eva_vit_g.pth")
    inspection = inspect(tmp_path / "eva_vit_g.pth")
    assert (inspection.kind, inspection.usable, inspection.details["num_layers"]) == ("lavis_eva", True, 2)


def test_a_hole_and_a_short_end_are_named(tmp_path):
    shapes = eva_shapes(depth=37)
    del shapes["blocks.5.attn.q_bias"]
    inspection = inspect(meta_file(tmp_path / "eva.safetensors", shapes))
    assert inspection.missing == ("blocks.5.attn.q_bias", "blocks.37.*", "blocks.38.*")
    assert not inspection.usable


def test_lavis_blip2(tmp_path):
    tensors = lavis_qformer() | {"t5_proj.weight": torch.ones(64, 32)}
    torch.save({"model": tensors}, tmp_path / "blip2.pth")
    inspection = inspect(tmp_path / "blip2.pth")
    assert (inspection.kind, inspection.usable) == ("lavis_blip2", True)
    facts = {"num_query_tokens": 4, "width": 32, "encoder_width": 48, "num_layers": 4}
    assert inspection.details.items() >= facts.items()
    assert inspection.details["trained_beside"] == "flan-t5 64 wide"
    for gone in ("ln_vision.weight", "Qformer.bert.encoder.layer.2.crossattention.self.key.weight"):
        torch.save({"model": {k: v for k, v in tensors.items() if k != gone}}, tmp_path / "less.pth")
        assert inspect(tmp_path / "less.pth").missing == (gone,)


def test_our_qformer(tmp_path):
    save_file(QFormer(QFormerConfig(None, 4, 32, 4, 2, 64), 48).state_dict(), tmp_path / "q.safetensors")
    inspection = inspect(tmp_path / "q.safetensors")
    assert (inspection.kind, inspection.usable) == ("qformer", True)
    assert inspection.details["encoder_width"] == 48


@pytest.mark.parametrize(("width", "fits"), [(4096, "7B Llama"), (5120, "13B Llama"), (4544, "Falcon-7B")])
def test_minigpt4_projection(width, fits, tmp_path):
    tensors = {"llama_proj.weight": torch.ones(width, 768), "llama_proj.bias": torch.ones(width)}
    torch.save({"model": tensors, "optimizer": {"lr": 1}, "epoch": 3}, tmp_path / "p.pth")
    inspection = inspect(tmp_path / "p.pth")
    assert (inspection.kind, inspection.usable, inspection.details["width"]) == (
        "minigpt4_projection",
        True,
        width,
    )
    assert fits in inspection.fits
    assert "epoch (int)" in describe(inspection)


def test_the_later_llama2_projection_is_refused_by_name(tmp_path):
    torch.save({"model": {"llama_proj.weight": torch.ones(4096, 5632)}}, tmp_path / "p.pth")
    inspection = inspect(tmp_path / "p.pth")
    assert inspection.kind == "minigpt4_llama2_projection"
    assert "MiniGPT-4's later projection for Llama-2 [4096, 5632]" in inspection.problem


def test_our_checkpoint_and_run(tmp_path):
    tensors = {"weight": torch.ones(576, 256), "bias": torch.ones(576)}
    folder = tmp_path / "checkpoints" / "000010"
    card = {"step": "step1", "template": "smollm2", "language_model": {"name": "x", "family": "llama"}}
    checkpoint.save(folder, tensors, card)
    for path, kind in ((folder, "checkpoint"), (tmp_path, "run")):
        inspection = inspect(path)
        assert (inspection.kind, inspection.usable, inspection.details["template"]) == (kind, True, "smollm2")
        assert "SmolLM2-135M" in inspection.fits
    assert inspect(folder / "projection.safetensors").kind == "projection"
    (folder / "projection.safetensors").write_bytes(b"")
    assert "is empty" in inspect(folder).problem


@pytest.fixture
def llama(tmp_path):
    """A tiny Llama in several shards, with a tokenizer's file."""
    folder = tmp_path / "model"
    config = AutoConfig.for_model("llama", vocab_size=60, **tiny.FAMILIES["llama"])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder, max_shard_size="20KB")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_language_model(llama):
    inspection = inspect(llama)
    assert (inspection.kind, inspection.usable) == ("language_model", True)
    facts = {"family": "llama", "width": 32, "num_layers": 2, "vocabulary": 60, "dtype": "float32"}
    assert inspection.details.items() >= facts.items()
    shards = sorted(llama.glob("*.safetensors"))
    assert len(shards) > 1
    assert inspect(shards[0]).kind == "language_model_file"


def test_a_language_model_in_bin_files(llama):
    tensors = {}
    for shard in llama.glob("*.safetensors"):
        from safetensors.torch import load_file

        tensors |= load_file(shard)
        shard.unlink()
    (llama / "model.safetensors.index.json").unlink()
    torch.save(tensors, llama / "pytorch_model.bin")
    assert inspect(llama).usable
    torch.save({k: v for k, v in tensors.items() if "layers.1." not in k}, llama / "pytorch_model.bin")
    assert inspect(llama).missing == ("layers 1 to 1",)


def test_missing_shards_and_tokenizer_are_named(llama):
    shards = sorted(llama.glob("*.safetensors"))
    shards[1].unlink()
    (llama / "tokenizer.json").unlink()
    assert inspect(llama).missing == (shards[1].name, "the tokenizer (tokenizer.json or tokenizer.model)")


def test_a_shard_that_broke_off_or_is_a_pointer(llama):
    shard = sorted(llama.glob("*.safetensors"))[0]
    content = shard.read_bytes()
    shard.write_bytes(content[:-10])
    assert f"{shard}: is truncated" in inspect(llama).problem
    shard.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 99\n")
    assert "Git LFS pointer" in inspect(llama).problem


def test_config_and_tensors_of_two_models(llama):
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(config | {"vocab_size": 61}))
    assert "config.json says vocabulary 61, its tensors say 60" in inspect(llama).problem


def scale_norm(folder, factor):
    from safetensors.torch import load_file

    for shard in folder.glob("*.safetensors"):
        tensors = load_file(shard)
        if "model.norm.weight" in tensors:
            tensors["model.norm.weight"] *= factor
            save_file(tensors, shard, metadata={"format": "pt"})


def test_a_delta_by_its_norm_its_name_and_its_readme(llama, tmp_path):
    scale_norm(llama, 0.003)
    inspection = inspect(llama)
    assert inspection.kind == "vicuna_delta"
    assert "merge it with its LLaMA first" in inspection.problem
    assert inspection.details["delta_evidence"] == [
        "its final norm is 0.003 on average, near zero as in a difference"
    ]
    (llama / "README.md").write_text("# Vicuna\nThese are delta weights.")
    named = llama.rename(tmp_path / "vicuna-7b-delta-v0")
    assert len(inspect(named).details["delta_evidence"]) == 3


def test_a_model_merged_in_place_is_none(llama, tmp_path):
    assert inspect(llama.rename(tmp_path / "vicuna-7b-delta-v0")).kind == "language_model"


def test_a_delta_whose_shards_are_away_is_told_by_its_name(llama, tmp_path):
    for shard in llama.glob("*.safetensors"):
        shard.unlink()
    inspection = inspect(llama.rename(tmp_path / "vicuna-7b-delta-v0"))
    assert inspection.details["delta_evidence"] == ["its name says delta"]


def test_hf_blip2_needs_only_the_shards_of_the_image_side(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "blip-2", "qformer_config": {}, "text_config": {"model_type": "t5"}})
    )
    image_side = {
        "query_tokens": [1, 32, 768],
        "vision_model.embeddings.patch_embedding.weight": [1408, 3, 14, 14],
        "vision_model.encoder.layers.38.mlp.fc1.weight": [6144, 1408],
        "qformer.encoder.layer.0.crossattention.attention.key.weight": [768, 1408],
    }
    meta_file(tmp_path / "one.safetensors", image_side)
    index = dict.fromkeys(image_side, "one.safetensors") | {"language_model.shared.weight": "two.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    inspection = inspect(tmp_path)
    assert (inspection.kind, inspection.missing, inspection.problem) == ("hf_blip2", (), None)
    facts = {"vision_width": 1408, "vision_layers": 39, "encoder_width": 1408, "num_query_tokens": 32}
    assert inspection.details.items() >= facts.items()
    (tmp_path / "one.safetensors").unlink()
    assert inspect(tmp_path).missing == ("one.safetensors",)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"adapter_config.json": "{}"}, "adapter"),
        ({"params.json": '{"dim": 4096}', "consolidated.00.pth": "x"}, "meta_llama"),
        ({"config.json": "{"}, "not_weights"),
        ({"readme.txt": "x"}, "not_weights"),
        ({}, "not_weights"),
    ],
)
def test_other_directories(files, kind, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    inspection = inspect(tmp_path)
    assert inspection.kind == kind
    assert str(tmp_path) in inspection.problem


def test_broken_files_are_answered_for_and_missing_ones_not(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"<html>")
    inspection = inspect(tmp_path / "w.pth")
    assert (inspection.kind, inspection.usable) == ("web_page", False)
    assert "refused" in describe(inspection)
    with pytest.raises(UnreadableWeights, match=r"gone\.pth: no such file"):
        inspect(tmp_path / "gone.pth")


def test_json_and_text(tmp_path):
    save_file({"strange": torch.ones(3, 2)}, tmp_path / "w.safetensors")
    inspection = inspect(tmp_path / "w.safetensors")
    plain = json.loads(json.dumps(inspection.to_json(with_tensors=True)))
    assert plain["tensors"] == {"strange": {"shape": [3, 2], "dtype": "float32"}}
    assert (plain["kind"], plain["num_bytes"], plain["usable"]) == ("unknown_tensors", 24, False)
    assert "tensors" not in inspection.to_json()
    assert "strange float32   [3, 2]" in describe(inspection, with_tensors=True)
    assert inspection.kind in KINDS


@pytest.mark.default
def test_the_bundled_default():
    from tests.conftest import ROOT

    inspection = inspect(ROOT / "weights" / "smollm2-135m-instruct")
    assert (inspection.kind, inspection.usable, inspection.details["vocabulary"]) == (
        "language_model",
        True,
        49152,
    )
    assert inspect(ROOT / "weights" / "dinov2-vit-s14-reg4").details["width"] == 384
    assert (
        inspect(ROOT / "skingpt4/weights/bundled/qformer_captions.safetensors").details["encoder_width"]
        == 384
    )


def test_a_strange_value_of_a_configuration_is_shown(tmp_path):
    tiny.save_language_model(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": [[]]}))
    assert re.search(r"context +\[\]", describe(inspect(tmp_path)))
