"""`vision.model` as a folder, a file or a name of the hub: own values, identity, a sentence for each mistake."""

import json
import pickle

import pytest
import torch
import transformers
from safetensors.torch import save_file

from skingpt4.checkpoints.card import public_config
from skingpt4.checkpoints.identity import encoder_identity
from skingpt4.checkpoints.paths import missing_paths
from skingpt4.config.load import from_dict, load_config, to_dict
from skingpt4.config.schema import Config, ConfigError, QFormerConfig
from skingpt4.config.vision_files import VisionFilesError, completed, place
from skingpt4.model.build import build_qformer, build_vision, empty_encoder
from skingpt4.model.encoders.encoder import VisionEncoder, VisionError
from skingpt4.model.encoders.transformers_backbone import TOWERS
from skingpt4.model.qformer import QFormer
from skingpt4.weights.files.headers import WeightsMismatch
from skingpt4.weights.files.inspect_directory import inspect
from skingpt4.weights.files.inspect_encoder import VISION_TYPES
from tests.support.encoder_files import (
    SIDE,
    WORDS,
    Cae,
    open_clip_model,
    timm_folder,
    transformers_model,
    vision_of,
    write_json,
)
from tests.support.true_shapes import clip_vit_shapes, panderm_shapes, thin_pth

PLAIN = {"image_size": SIDE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}


def written(tmp_path, text, *overrides):
    (tmp_path / "c.yaml").write_text(text)
    return load_config(tmp_path / "c.yaml", ["step=none", "output_dir=o", "language.model=x", *overrides])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "m"
    open_clip_model(folder, PLAIN)
    return folder


# ---- values of the model's own files


def test_what_a_configuration_leaves_out_comes_from_the_models_files(tmp_path, clip):
    vision = written(tmp_path, f"vision: {{model: {clip}}}").vision
    assert (vision.image_size, vision.interpolation, vision.block, vision.norm) == (
        SIDE,
        "bicubic",
        None,
        True,
    )
    assert vision.weights == str(clip / "open_clip_model.safetensors")
    assert vision.mean == [0.48145466, 0.4578275, 0.40821073]


def test_what_a_configuration_says_wins(tmp_path, clip):
    vision = written(
        tmp_path, f"vision: {{model: {clip}, image_size: 48, std: [1, 1, 1], interpolation: bilinear}}"
    ).vision
    assert (vision.image_size, vision.std, vision.interpolation) == (48, [1, 1, 1], "bilinear")


def test_a_base_may_be_taken_back_by_null(tmp_path, clip):
    base = "vision: {model_args: {depth: 3}, image_size: 336, norm: false, block: 2, weights: w.safetensors}"
    (tmp_path / "base.yaml").write_text(base)
    nulls = "model_args: null, image_size: null, norm: null, block: null, weights: null"
    vision = written(tmp_path, f"extends: base.yaml\nvision: {{model: {clip}, {nulls}}}").vision
    assert (vision.model_args, vision.image_size, vision.norm, vision.block) == ({}, SIDE, True, None)
    assert vision.weights == str(clip / "open_clip_model.safetensors")


def test_a_timm_name_has_the_schemas_values(tmp_path):
    vision = written(tmp_path, "vision: {model: resnet10t}").vision
    assert (vision.image_size, vision.interpolation, vision.norm, vision.weights) == (
        224,
        "bicubic",
        True,
        None,
    )


def test_a_stored_configuration_reads_back_equal_where_the_folder_is_gone(tmp_path, clip):
    config = written(tmp_path, f"vision: {{model: {clip}}}")
    stored = to_dict(config)
    assert from_dict(stored, "card") == config
    stored["vision"]["model"] = str(tmp_path / "gone")
    assert from_dict(stored, "card").vision.image_size == SIDE


@pytest.mark.parametrize(
    ("steps", "config", "size", "interpolation"),
    [
        ({"size": 384, "resample": 3}, {}, 384, "bicubic"),
        ({"size": {"height": 448, "width": 448}, "resample": 2}, {}, 448, "bilinear"),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, {}, 224, "bicubic"),
        ({"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": False}, {}, 256, "bicubic"),
        ({}, {"image_size": 336}, 336, "bicubic"),
        ({"max_num_patches": 256, "resample": 2}, {"patch_size": 16}, 256, "bilinear"),
    ],
)
def test_sizes_in_every_spelling_of_transformers(tmp_path, steps, config, size, interpolation):
    write_json(tmp_path / "m", "config.json", {"model_type": "dinov2", **config})
    write_json(tmp_path / "m", "preprocessor_config.json", steps)
    values = completed({"model": str(tmp_path / "m")})
    assert (values["image_size"], values["interpolation"]) == (size, interpolation)


def test_llavas_layer_is_a_block_without_the_norm(tmp_path):
    tower = {"model_type": "clip_vision_model", "num_hidden_layers": 24, "image_size": 336}
    write_json(tmp_path / "m", "config.json", {"vision_config": tower, "vision_feature_layer": -2})
    values = completed({"model": str(tmp_path / "m")})
    assert (values["block"], values["norm"], values["image_size"]) == (23, False, 336)


def test_every_tower_is_also_inspected():
    assert {*TOWERS} <= {*VISION_TYPES}


# ---- identity, paths, sharing


def test_the_identity_is_of_the_content_and_not_of_the_place(tmp_path, clip, monkeypatch):
    def identity(model, **changes):
        config = Config(step="none", output_dir="o", vision=vision_of(model, **changes), projector="mlp")
        return encoder_identity(config)

    here = identity(clip)
    (tmp_path / "weights").mkdir()
    copy = tmp_path / "weights/tiny_clip"
    copy.mkdir()
    for file in clip.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert identity(copy) == here
    monkeypatch.chdir(tmp_path)
    assert identity("hf-hub:lab/Tiny_CLIP") == here
    assert identity(copy, interpolation="bilinear") != here
    described = json.loads((copy / "open_clip_config.json").read_text())
    described["model_cfg"]["quick_gelu"] = True
    (copy / "open_clip_config.json").write_text(json.dumps(described))
    assert identity(copy) != here, "another activation is another encoder"


def test_a_folder_outside_is_not_named_where_a_card_is_shared(tmp_path, clip):
    config = written(tmp_path, f"vision: {{model: {clip}}}")
    assert public_config(config).vision.model == f"weights/{clip.name}"
    config.vision.model = "hf-hub:lab/m"
    assert public_config(config).vision.model == "hf-hub:lab/m"


def test_what_is_not_here_is_listed_with_its_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Config(step="none", output_dir="o", vision=vision_of("hf-hub:lab/Some_Model"))
    config.language.model = "hub/model"
    (line,) = missing_paths(config)
    assert (
        line == "vision.model: weights/some_model is not there (skingpt4 weights fetch hf-hub:lab/Some_Model)"
    )
    config.vision = vision_of("weights/panderm_ll_data6_checkpoint-499.pth")
    (line,) = missing_paths(config)
    assert "skingpt4 weights fetch panderm-large" in line


def test_no_name_of_the_hub_is_fetched_unasked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("httpx.Client.send", lambda *a, **k: pytest.fail("asked the network"))
    with pytest.raises(VisionError, match=r"is not here .*; run `skingpt4 weights fetch hf-hub:lab/m`"):
        VisionEncoder(vision_of("hf-hub:lab/m"))


def test_a_folder_of_another_repository_of_the_same_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    transformers_model(tmp_path / "weights/m", "dinov2")
    write_json(tmp_path / "weights/m", "source.json", {"repo": "other/m", "files": {}})
    with pytest.raises(VisionFilesError, match="was fetched from other/m, not from lab/m"):
        vision_of("hf-hub:lab/m")
    assert vision_of("hf-hub:other/m").image_size == SIDE


@pytest.mark.parametrize("name", ["vit_base_patch16_clip_224.openai", "resnet50", "", "x" * 5000, "a\0b"])
def test_what_is_no_path_is_a_timm_name(name):
    assert place(name) is None


# ---- mistakes: one sentence each


def refused(folder, match, **changes):
    with pytest.raises((VisionError, VisionFilesError, WeightsMismatch), match=match) as caught:
        build_vision(vision_of(folder, **changes))
    assert "\n" not in str(caught.value)


def test_wrong_folders(tmp_path):
    refused(tmp_path / "gone", "is not here")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"holds neither open_clip_config\.json .* nor config\.json")
    write_json(tmp_path / "damaged", "config.json", {})
    (tmp_path / "damaged/config.json").write_text("{")
    refused(tmp_path / "damaged", r"config\.json is damaged")
    write_json(tmp_path / "odd", "open_clip_config.json", {"model_cfg": []})
    refused(tmp_path / "odd", "has no model_cfg with a vision_cfg")


def test_a_text_model_is_refused_by_its_name(tmp_path):
    transformers.AutoConfig.for_model("qwen3", **WORDS).save_pretrained(tmp_path / "lm")
    refused(tmp_path / "lm", "is 'qwen3' in transformers, which is no vision encoder")


def test_a_folder_without_its_preprocessor_is_refused_until_mean_and_std_are_given(tmp_path):
    transformers_model(tmp_path / "m", "dinov2")
    (tmp_path / "m/preprocessor_config.json").unlink()
    refused(
        tmp_path / "m", r"vision\.mean: .* does not say it \(its folder lacks preprocessor_config\.json\)"
    )
    assert build_vision(vision_of(tmp_path / "m", mean=[0.5] * 3, std=[0.5] * 3)).mean == (0.5, 0.5, 0.5)
    assert inspect(tmp_path / "m").missing == ("preprocessor_config.json",)


@pytest.mark.parametrize(
    ("tower", "match"),
    [
        ({"layers": [3, 4, 6, 3], "width": 64}, "layers: a list, so a ResNet"),
        ({**PLAIN, "attentional_pool": True}, "vision tower with attentional_pool"),
        ({**PLAIN, "width": "wide"}, "whose sizes are no numbers"),
        ({"timm_model_name": "vit_of_tomorrow"}, "timm has no 'vit_of_tomorrow'"),
    ],
)
def test_architectures_that_are_not_computed(tmp_path, tower, match):
    write_json(tmp_path / "m", "open_clip_config.json", {"model_cfg": {"vision_cfg": tower}})
    refused(tmp_path / "m", match)


def test_a_folders_arguments_may_not_load_anything(tmp_path):
    model = {"architecture": "resnet10t", "model_args": {"checkpoint_path": "/elsewhere.pth"}}
    write_json(tmp_path / "m", "config.json", model)
    refused(tmp_path / "m", "names arguments for timm that are refused: 'checkpoint_path' loads weights")


def test_sizes_that_do_not_fit(tmp_path, clip):
    refused(clip, "cuts pictures into squares of 8 pixels, and 36 is not a multiple", image_size=36)
    refused(clip, "has blocks 1 to 2, not 5", block=5)
    transformers_model(tmp_path / "m", "siglip", whole=False)
    refused(tmp_path / "m", "cuts pictures into squares of 8 pixels", image_size=36)
    refused(tmp_path / "m", "has blocks 1 to 3, not 5", block=5)
    refused(tmp_path / "m", "are for timm's networks", model_args={"depth": 2})


def test_weights_that_are_missing_truncated_or_of_another_shape(tmp_path):
    open_clip_model(tmp_path / "m", PLAIN)
    file = tmp_path / "m/open_clip_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-100])
    refused(tmp_path / "m", "is truncated")
    assert "is truncated" in inspect(tmp_path / "m").problem
    file.write_bytes(content)
    described = json.loads((tmp_path / "m/open_clip_config.json").read_text())
    described["model_cfg"]["vision_cfg"]["width"] = 64
    (tmp_path / "m/open_clip_config.json").write_text(json.dumps(described))
    refused(tmp_path / "m", r"of another shape \d+: blocks\.0\.attn\.proj\.bias \(32,\) instead of \(64,\)")
    file.unlink()
    refused(tmp_path / "m", "no such file of weights")
    assert inspect(tmp_path / "m").missing == ("open_clip_model.safetensors",)


def test_a_layer_that_is_not_there_is_named(tmp_path):
    model = transformers_model(tmp_path / "m", "clip")
    tensors = {k: v for k, v in model.state_dict().items() if "vision_model.encoder.layers.1.mlp" not in k}
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "m/model.safetensors")
    refused(tmp_path / "m", r"missing 4: encoder\.layers\.1\.mlp\.fc1\.bias")
    assert "vision_model.encoder.layers.1.mlp.fc1.bias" in inspect(tmp_path / "m").missing


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_a_pickle_with_code_is_not_opened(tmp_path, capsys):
    open_clip_model(tmp_path / "m", PLAIN, pickled=True)
    with (tmp_path / "m/open_clip_pytorch_model.bin").open("wb") as file:
        pickle.dump({"visual.class_embedding": Evil()}, file)
    refused(tmp_path / "m", "is a pickle with code in it")
    assert "is a pickle with code" in inspect(tmp_path / "m").problem
    assert "run" not in capsys.readouterr().out


def test_files_that_are_not_panderm(tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "whose names are not PanDerm's")
    shapes = panderm_shapes(128, 2, "")
    thin_pth(tmp_path / "cut.pth", {k: v for k, v in shapes.items() if k != "norm.weight"})
    refused(tmp_path / "cut.pth", r"lacks norm\.weight or pos_embed")
    thin_pth(tmp_path / "rel.pth", shapes | {"blocks.0.attn.relative_position_bias_table": [4, 2]})
    refused(tmp_path / "rel.pth", "has relative position biases")
    thin_pth(tmp_path / "shape.pth", shapes | {"blocks.1.mlp.fc2.bias": [64]})
    refused(tmp_path / "shape.pth", r"blocks\.1\.mlp\.fc2\.bias \(64,\) instead of \(128,\)")


def test_a_qformer_fits_where_the_widths_do(tmp_path, clip):
    sizes = {"num_query_tokens": 4, "width": 32, "num_layers": 2, "num_heads": 2, "intermediate_width": 64}
    save_file(QFormer(QFormerConfig(**sizes), 48).state_dict(), tmp_path / "q48.safetensors")
    save_file(QFormer(QFormerConfig(**sizes), 32).state_dict(), tmp_path / "q32.safetensors")
    vision = build_vision(vision_of(clip))
    with pytest.raises(
        WeightsMismatch, match="reads vision tokens 48 wide, and the vision encoder's are 32 wide"
    ):
        build_qformer(QFormerConfig(**sizes, weights=str(tmp_path / "q48.safetensors")), vision.width)
    fits = build_qformer(QFormerConfig(**sizes, weights=str(tmp_path / "q32.safetensors")), vision.width)
    assert fits(vision(torch.zeros(1, 3, SIDE, SIDE))).shape == (1, 4, 32)


@pytest.mark.parametrize("key", ["interpolation", "image_size"])
def test_values_that_no_image_can_have(tmp_path, clip, key):
    with pytest.raises(ConfigError, match=f"'vision.{key}'"):
        written(tmp_path, f"vision: {{model: {clip}, {key}: -1}}")


# ---- inspect


@pytest.mark.parametrize(
    ("family", "facts"),
    [
        (
            "clip",
            {"library": "transformers", "family": "clip", "width": 32, "num_layers": 3, "patch_size": 8},
        ),
        ("dinov3_vit", {"library": "transformers", "width": 32, "num_layers": 3, "patch_size": 8}),
        ("siglip2", {"library": "transformers", "width": 32, "num_layers": 3}),
    ],
)
def test_inspect_folders_of_transformers(tmp_path, family, facts):
    transformers_model(tmp_path / "m", family)
    inspection = inspect(tmp_path / "m")
    assert (inspection.kind, inspection.usable) == ("hf_vision", True)
    assert inspection.details.items() >= facts.items()
    assert inspection.fits == f"vision.model={tmp_path / 'm'}"


def test_inspect_folders_of_open_clip_and_timm(tmp_path, clip):
    inspection = inspect(clip)
    assert (inspection.kind, inspection.usable, inspection.details["image_size"]) == ("open_clip", True, SIDE)
    assert inspection.details.items() >= {"width": 32, "num_layers": 2, "patch_size": 8}.items()
    timm_folder(tmp_path / "t", "resnet10t")
    inspection = inspect(tmp_path / "t")
    assert (inspection.kind, inspection.usable) == ("timm_folder", True)
    assert inspection.details["family"] == "resnet10t"


def test_inspect_files(tmp_path, clip):
    inspection = inspect(clip / "open_clip_model.safetensors")
    assert (inspection.kind, inspection.usable) == ("open_clip", False)
    assert "name its folder in vision.model" in inspection.problem
    torch.save(Cae().tensors, tmp_path / "p.pth")
    inspection = inspect(tmp_path / "p.pth")
    assert (inspection.kind, inspection.usable, inspection.details["width"]) == ("panderm", True, 128)
    thin_pth(tmp_path / "clip.pth", clip_vit_shapes())
    assert inspect(tmp_path / "clip.pth").details["num_layers"] == 12


def test_the_doctors_network_has_no_memory(clip):
    config = Config(step="none", output_dir="o", vision=vision_of(clip), projector="linear")
    vision, pooling = empty_encoder(config)
    assert all(parameter.is_meta for parameter in vision.parameters())
    assert (vision.num_tokens, pooling.num_query_tokens) == (17, 17)
