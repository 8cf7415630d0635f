"""Tokens equal those of each library's own forward, on random weights that the library itself saved.

fp32, largest absolute difference at most 1e-5 of tokens whose standard deviation is about 1.
"""

import open_clip
import pytest
import timm
import torch
import transformers

from skingpt4.config.schema import PoolingConfig
from skingpt4.model.build import build_vision
from skingpt4.model.projection import Pooling
from tests.support.encoder_files import (
    SIDE,
    TOWER,
    WORDS,
    Cae,
    images,
    open_clip_model,
    seeded,
    timm_folder,
    transformers_model,
    vision_of,
    write_json,
)

PLAIN = {
    "image_size": SIDE,
    "layers": 3,
    "width": 32,
    "head_width": 16,
    "patch_size": 8,
    "output_tokens": True,
}


def built(config):
    return build_vision(config).eval()


def assert_same(ours, theirs):
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.05, "a comparison of nothing"
    assert (ours - theirs).abs().max() <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize(
    "changes", [{}, {"mlp_ratio": 2.5, "ls_init_value": 0.1}], ids=["clip", "layer scale"]
)
def test_open_clips_plain_tower(tmp_path, quick_gelu, changes):
    model = open_clip_model(tmp_path / "m", {**PLAIN, **changes}, quick_gelu)
    vision = built(vision_of(tmp_path / "m"))
    assert (vision.num_prefix, vision.num_registers, vision.num_tokens, vision.width) == (1, 0, 17, 32)
    tokens = vision(images())
    pooled, patches = model.visual(images())
    assert_same(tokens[:, 1:], patches)
    assert_same(tokens[:, 0] @ model.visual.proj, pooled)


@torch.no_grad()
def test_a_block_of_open_clips_tower(tmp_path):
    model = open_clip_model(tmp_path / "m", PLAIN)
    vision = built(vision_of(tmp_path / "m", block=2, norm=False))
    theirs = model.visual.forward_intermediates(
        images(), indices=[1], output_fmt="NLC", output_extra_tokens=True
    )
    assert_same(vision(images())[:, 1:], theirs["image_intermediates"][0])
    assert_same(vision(images())[:, :1], theirs["image_intermediates_prefix"][0])


@torch.no_grad()
def test_an_open_clip_tower_at_another_image_size(tmp_path):
    """open_clip resamples learned positions bicubically with antialias; ours does without, as LAVIS."""
    open_clip_model(tmp_path / "m", PLAIN)
    vision = built(vision_of(tmp_path / "m", image_size=48))
    assert vision(images(48)).shape == (2, 1 + 36, 32)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "tower", "prefix", "patches"),
    [
        ("vit_tiny_patch16_224", {"timm_pool": "", "timm_proj": "linear"}, 1, 196),  # BiomedCLIP's form
        ("vit_base_patch16_siglip_224", {"timm_pool": "map", "timm_proj": "none"}, 0, 196),
        ("resnet10t", {"timm_pool": "avg", "timm_proj": "linear"}, 0, 49),
    ],
)
def test_open_clips_timm_towers(tmp_path, name, tower, prefix, patches, monkeypatch):
    smaller = {"depth": 2, "embed_dim": 48, "num_heads": 3} if name.startswith("vit") else {}
    create = timm.create_model
    monkeypatch.setattr("timm.create_model", lambda *a, **k: create(*a, **{**smaller, **k}))
    model = open_clip_model(tmp_path / "m", {"timm_model_name": name, "image_size": 224, **tower})
    vision = built(vision_of(tmp_path / "m", model_args=smaller))
    assert (vision.num_prefix, vision.num_tokens) == (prefix, prefix + patches)
    theirs = model.visual.trunk.forward_features(images(224))
    if theirs.dim() == 4:
        theirs = theirs.flatten(2).transpose(1, 2)
    assert_same(vision(images(224)), theirs)


@torch.no_grad()
def test_pickled_open_clip_weights_are_read_as_tensors_alone(tmp_path):
    model = open_clip_model(tmp_path / "m", PLAIN, pickled=True)
    config = vision_of(tmp_path / "m")
    assert config.weights.endswith("open_clip_pytorch_model.bin")
    assert_same(built(config)(images())[:, 1:], model.visual(images())[1])


@torch.no_grad()
def test_our_reading_is_open_clips_own_loaders(tmp_path):
    """open_clip loads the folder by itself, so the files are as it writes and reads them."""
    open_clip_model(tmp_path / "m", {k: v for k, v in PLAIN.items() if k != "output_tokens"})
    loaded = open_clip.create_model(f"local-dir:{tmp_path / 'm'}").eval()
    vision = built(vision_of(tmp_path / "m"))
    assert_same(vision(images())[:, 0] @ loaded.visual.proj, loaded.encode_image(images()))
    assert vision.image_size == open_clip.get_model_preprocess_cfg(loaded)["size"][0] == SIDE
    assert vision.mean == tuple(open_clip.get_model_preprocess_cfg(loaded)["mean"])


FAMILIES = {  # class tokens, registers
    "clip": (1, 0),
    "siglip": (0, 0),
    "siglip2": (0, 0),
    "dinov2": (1, 0),
    "dinov2_with_registers": (1, 2),
    "dinov3_vit": (1, 4),
}


def own_tokens(model, family, image, **asked):
    """Transformers' own tokens, without registers."""
    tower = getattr(model, "vision_model", model)
    if family == "siglip2":
        side, p = image.shape[-1] // 8, 8
        rows = [
            image[:, :, y * p : (y + 1) * p, x * p : (x + 1) * p].permute(0, 2, 3, 1).flatten(1)
            for y in range(side)
            for x in range(side)
        ]
        out = tower(
            torch.stack(rows, 1),
            torch.ones(len(image), side * side),
            torch.tensor([[side, side]] * len(image)),
            **asked,
        )
    else:
        out = tower(image, **asked)
    classes, registers = FAMILIES[family]

    def without_registers(tokens):
        return torch.cat([tokens[:, :classes], tokens[:, classes + registers :]], 1)

    return out, without_registers


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_towers_of_transformers(tmp_path, family):
    model = transformers_model(tmp_path / "m", family)
    vision = built(vision_of(tmp_path / "m"))
    assert (vision.num_prefix, vision.num_registers) == FAMILIES[family]
    assert (vision.num_tokens, vision.width, vision.image_size) == (FAMILIES[family][0] + 16, 32, SIDE)
    assert (vision.mean, vision.std, vision.interpolation) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear")
    out, without_registers = own_tokens(model, family, images())
    tokens = vision(images())
    if family == "clip":  # whose own last_hidden_state comes before the norm, and its pooled output after it
        assert_same(tokens[:, 0], out.pooler_output)
        raw = built(vision_of(tmp_path / "m", norm=False))
        assert_same(raw(images()), out.last_hidden_state)
    else:
        assert_same(tokens, without_registers(out.last_hidden_state))


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_of_a_tower_of_transformers(tmp_path, family):
    model = transformers_model(tmp_path / "m", family)
    vision = built(vision_of(tmp_path / "m", block=2, norm=False))
    out, without_registers = own_tokens(model, family, images(), output_hidden_states=True)
    assert_same(vision(images()), without_registers(out.hidden_states[2]))


@torch.no_grad()
@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_tower_alone_is_the_tower_of_the_whole(tmp_path, family):
    model = transformers_model(tmp_path / "m", family, whole=False)
    out, _ = own_tokens(model, family, images())
    assert_same(built(vision_of(tmp_path / "m", norm=family == "siglip"))(images()), out.last_hidden_state)


@torch.no_grad()
def test_the_tower_and_the_layer_of_a_llava(tmp_path):
    """A model of images and texts: its vision tower, and the layer that its own projector reads."""
    tower = transformers.CLIPVisionConfig(**TOWER, image_size=SIDE)
    config = transformers.LlavaConfig(
        vision_config=tower, text_config=transformers.LlamaConfig(**WORDS), vision_feature_layer=-2
    )
    model = seeded(transformers.LlavaForConditionalGeneration(config))
    model.save_pretrained(tmp_path / "m")
    steps = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "crop_size": SIDE}
    write_json(tmp_path / "m", "preprocessor_config.json", steps)
    vision = built(vision_of(tmp_path / "m"))
    assert (vision.block, vision.norm) == (2, False)
    out = model.model.vision_tower(images(), output_hidden_states=True)
    assert_same(vision(images()), out.hidden_states[-2])


@torch.no_grad()
@pytest.mark.parametrize("family", ["clip", "siglip", "dinov2", "dinov3_vit"])
def test_another_image_size_is_transformers_own_interpolation(tmp_path, family):
    model = transformers_model(tmp_path / "m", family)
    vision = built(vision_of(tmp_path / "m", image_size=48, norm=family != "clip"))
    asked = {"interpolate_pos_encoding": True} if family in ("clip", "siglip") else {}
    out, without_registers = own_tokens(model, family, images(48), **asked)
    assert_same(vision(images(48)), without_registers(out.last_hidden_state))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "args", "side"),
    [
        ("vit_small_patch14_reg4_dinov2", {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 56}, 56),
        ("convnext_tiny", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}, 64),
    ],
)
def test_timms_own_folder(tmp_path, name, args, side):
    model = timm_folder(tmp_path / "m", name, **args)
    vision = built(vision_of(tmp_path / "m", image_size=side))
    assert vision.mean == timm.get_pretrained_cfg(name).mean
    theirs = model.forward_features(images(side))
    of_map = theirs.dim() == 4
    theirs = theirs.flatten(2).transpose(1, 2) if of_map else torch.cat([theirs[:, :1], theirs[:, 5:]], 1)
    assert_same(vision(images(side)), theirs)


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "encoder.", "visual."])
def test_panderms_state_dict(tmp_path, prefix):
    """Against the network written down a second time; in the large model's file the names begin with `encoder.`."""
    cae = Cae()
    tensors = {f"{prefix}{name}": value for name, value in cae.tensors.items()}
    torch.save(
        {"model": {**tensors, "mask_token": torch.zeros(1), "head.weight": torch.ones(2)}}, tmp_path / "p.pth"
    )
    config = vision_of(tmp_path / "p.pth", image_size=SIDE)
    vision = built(config)
    assert (vision.num_prefix, vision.num_tokens, vision.width) == (1, 17, 128)
    assert vision.mean == (0.485, 0.456, 0.406), "of ImageNet, with which it was trained"
    assert_same(vision(images()), cae(images()))


@torch.no_grad()
def test_panderm_is_also_transformers_beit(tmp_path):
    """The second implementation is itself checked, against BEiT of transformers."""
    cae = Cae()
    beit = transformers.BeitModel(
        transformers.BeitConfig(
            hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512, image_size=SIDE,
            patch_size=8, use_absolute_position_embeddings=True, layer_scale_init_value=0.1, layer_norm_eps=1e-6,
            use_mean_pooling=False,
        ),
        add_pooling_layer=False,
    ).eval()  # fmt: skip
    state = {
        "embeddings.cls_token": cae.tensors["cls_token"],
        "embeddings.position_embeddings": cae.tensors["pos_embed"],
        "layernorm.weight": cae.tensors["norm.weight"],
        "layernorm.bias": cae.tensors["norm.bias"],
    }
    for leaf in ("weight", "bias"):
        state[f"embeddings.patch_embeddings.projection.{leaf}"] = cae.tensors[f"patch_embed.proj.{leaf}"]
    for n in range(2):
        theirs, ours = f"layers.{n}.", f"blocks.{n}."
        q, k, v = cae.tensors[f"{ours}attn.qkv.weight"].chunk(3)
        inner = f"{theirs}attention."
        state |= {f"{inner}q_proj.weight": q, f"{inner}k_proj.weight": k, f"{inner}v_proj.weight": v}
        state |= {f"{inner}{x}_proj.bias": cae.tensors[f"{ours}attn.{x}_bias"] for x in ("q", "v")}
        state |= {f"{theirs}lambda_{i}": cae.tensors[f"{ours}gamma_{i}"] for i in (1, 2)}
        for a, b in (
            ("layernorm_before", "norm1"), ("layernorm_after", "norm2"), ("attention.o_proj", "attn.proj"),
            ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2"),
        ):  # fmt: skip
            state |= {f"{theirs}{a}.{leaf}": cae.tensors[f"{ours}{b}.{leaf}"] for leaf in ("weight", "bias")}
    problems = beit.load_state_dict(state, strict=False)
    assert not problems.unexpected_keys
    assert not [name for name in problems.missing_keys if "mask_token" not in name]
    assert_same(cae(images()), beit(images()).last_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize("family", ["siglip", "dinov3_vit"])
@pytest.mark.parametrize("class_token", [False, True])
def test_pooled_tokens_are_means_of_neighbouring_patches(tmp_path, family, class_token):
    """Neither registers nor a class token that is not there may shift the grid."""
    transformers_model(tmp_path / "m", family)
    vision = built(vision_of(tmp_path / "m"))
    tokens = vision(images())
    pooled = Pooling(PoolingConfig(side=2, class_token=class_token), vision)(tokens)
    first = tokens[:, vision.num_prefix :].unflatten(1, (4, 4))[:, :2, :2].mean((1, 2))
    has_class = class_token and family != "siglip"
    assert pooled.shape == (2, 4 + has_class, 32)
    torch.testing.assert_close(pooled[:, int(has_class)], first)


def test_every_precision_is_the_configurations(tmp_path):
    """Weights stored in half precision are read as the encoder wants them."""
    model = transformers_model(tmp_path / "m", "siglip", whole=False)
    seeded(model).half().save_pretrained(tmp_path / "m")
    vision = built(vision_of(tmp_path / "m"))
    assert {parameter.dtype for parameter in vision.parameters()} == {torch.float32}
