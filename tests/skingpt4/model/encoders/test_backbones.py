"""Any timm backbone by name: its tokens are timm's own features, without registers, in timm's order.

Built small from `model_args`; PanDerm's and similar dermatological towers are plain ViT-B and ViT-L.
"""

import pytest
import timm
import torch

from skingpt4.config.schema import Config, VisionConfig
from skingpt4.model.build import build_vision
from skingpt4.model.encoders.encoder import VisionEncoder, VisionError
from skingpt4.records.images import to_tensor
from tests.support.tiny import make_picture

VIT = {"embed_dim": 64, "depth": 2, "num_heads": 2}
STAGES = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
SWIN = {"depths": (1, 1, 1, 1), "embed_dim": 24}
OPENAI = (0.48145466, 0.4578275, 0.40821073)
IMAGENET = (0.485, 0.456, 0.406)
HALF = (0.5, 0.5, 0.5)

# name -> arguments, picture's side, (class tokens, registers and the like, patches), width, mean
BACKBONES = {
    "vit_base_patch16_siglip_224": (VIT, 64, (0, 0, 16), 64, HALF),
    "vit_so400m_patch14_siglip_224": (VIT, 56, (0, 0, 16), 64, HALF),
    "vit_small_patch16_dinov3": (VIT, 64, (1, 4, 16), 64, IMAGENET),
    "vit_large_patch16_dinov3": (VIT, 96, (1, 4, 36), 64, IMAGENET),
    "vit_base_patch14_reg4_dinov2": (VIT, 56, (1, 4, 16), 64, IMAGENET),
    "vit_base_patch16_224": (VIT, 64, (1, 0, 16), 64, HALF),
    "vit_large_patch16_224": (VIT, 64, (1, 0, 16), 64, HALF),
    "beitv2_large_patch16_224": (VIT, 64, (1, 0, 16), 64, IMAGENET),
    "vit_base_patch16_clip_224": (VIT, 64, (1, 0, 16), 64, OPENAI),
    "deit_tiny_distilled_patch16_224": (VIT, 64, (1, 1, 16), 64, IMAGENET),
    "vit_medium_patch16_rope_reg1_gap_256": (VIT, 64, (0, 1, 16), 64, HALF),
    "eva02_tiny_patch14_224": (VIT, 56, (1, 0, 16), 64, OPENAI),
    "eva02_large_patch14_clip_224": (VIT, 56, (1, 0, 16), 64, OPENAI),
    "aimv2_large_patch14_224": (VIT, 56, (0, 0, 16), 64, OPENAI),
    "convnext_tiny": (STAGES, 64, (0, 0, 4), 32, IMAGENET),
    "convnextv2_tiny": (STAGES, 96, (0, 0, 9), 32, IMAGENET),
    "convnext_tiny.dinov3_lvd1689m": (STAGES, 64, (0, 0, 4), 32, IMAGENET),
    "swin_tiny_patch4_window7_224": (SWIN, 64, (0, 0, 4), 192, IMAGENET),
    "swinv2_tiny_window8_256": (SWIN, 96, (0, 0, 9), 192, IMAGENET),
    "efficientnet_b0": ({}, 64, (0, 0, 4), 1280, IMAGENET),
}
TRANSFORMERS = [name for name, (args, *_) in BACKBONES.items() if args is VIT]


def build(name, **changes):
    args, size, *_ = BACKBONES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = VisionEncoder(VisionConfig(name, args, image_size=size, **changes)).eval()
    return encoder, torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("name", BACKBONES)
def test_tokens_are_timms_own_features_without_what_is_no_picture(name):
    _, size, (classes, registers, patches), width, mean = BACKBONES[name]
    encoder, image = build(name)
    features = encoder.backbone.forward_features(image)
    if features.dim() == 4:  # (b, d, h, w), or (b, h, w, d) in Swin: written out row by row
        places = [(y, x) for y in range(size // 32) for x in range(size // 32)]
        last = features.shape[-1] == width
        expected = torch.stack([features[:, y, x] if last else features[:, :, y, x] for y, x in places], 1)
    else:
        assert features.shape[1] == classes + registers + patches
        expected = torch.cat([features[:, :classes], features[:, classes + registers :]], 1)
    tokens = encoder(image)
    assert tokens.shape == (2, classes + patches, width) == (2, encoder.num_tokens, encoder.width)
    assert torch.equal(tokens, expected)
    assert encoder.mean == pytest.approx(mean)
    assert encoder.mean == timm.get_pretrained_cfg(name).mean
    assert encoder.std == timm.get_pretrained_cfg(name).std


@torch.no_grad()
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_one_blocks_tokens_are_what_a_hook_sees_behind_it(name):
    _, _, (classes, registers, _), _, _ = BACKBONES[name]
    encoder, image = build(name, block=1, norm=False)
    seen = []
    encoder.backbone.blocks[0].register_forward_hook(lambda module, args, output: seen.append(output))
    tokens = encoder(image)
    assert torch.equal(tokens, torch.cat([seen[0][:, :classes], seen[0][:, classes + registers :]], 1))


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "eva02_tiny_patch14_224"])
def test_where_a_patch_stands_counts_in_models_with_rotary_positions(name):
    encoder, image = build(name)
    turned = encoder(image.flip(-1))
    side = int(encoder.num_tokens**0.5)
    patches = turned[:, 1:].unflatten(1, (side, side)).flip(2).flatten(1, 2)
    assert not torch.allclose(patches, encoder(image)[:, 1:], atol=1e-4)


def test_mean_and_std_of_the_configuration_win_over_timms():
    args, size, *_ = BACKBONES["vit_base_patch16_siglip_224"]
    config = VisionConfig("vit_base_patch16_siglip_224", dict(args), image_size=size)
    assert build_vision(config).mean == HALF
    config.mean, config.std = [0.1, 0.2, 0.3], [1.0, 1.0, 1.0]
    vision = build_vision(config)
    pixels = to_tensor(make_picture(0), size, vision.mean, vision.std)
    plain = to_tensor(make_picture(0), size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    torch.testing.assert_close(pixels, plain - torch.tensor([0.1, 0.2, 0.3])[:, None, None])
    assert Config(step="none", output_dir="o").vision.mean is None


@pytest.mark.parametrize(
    ("name", "args", "size", "changes", "message"),
    [
        (
            "vit_base_patch16_siglip_224",
            VIT,
            60,
            {},
            r"vision\.image_size: .* squares of 16 .*choose 48 or 64",
        ),
        (
            "vit_base_patch14_reg4_dinov2",
            VIT,
            64,
            {},
            r"vision\.image_size: .* squares of 14 .*choose 56 or 70",
        ),
        (
            "vit_base_patch16_224",
            {"embed_dim": 65, "num_heads": 2},
            64,
            {},
            r"vision\.model_args: vit_base_patch16",
        ),
        ("vit_base_patch16_224", {"depht": 2}, 64, {}, r"vision\.model_args: .*depht"),
        ("mixer_b16_224", {"embed_dim": 64}, 64, {}, r"vision\.model_args: mixer_b16_224 cannot be built"),
        (
            "xcit_nano_12_p16_224",
            {},
            64,
            {"block": 1},
            r"vision\.block and norm: timm does not return single blocks",
        ),
        ("convnext_tiny", STAGES, 64, {"block": 1}, r"vision\.block, norm and norm_eps are for transformers"),
    ],
)
def test_what_cannot_be_built_is_refused_in_a_sentence(name, args, size, changes, message):
    with pytest.raises(VisionError, match=message) as caught:
        VisionEncoder(VisionConfig(name, args, image_size=size, **changes))
    assert "\n" not in str(caught.value)
