"""The vision encoder: which tokens come out, and which weight files go in."""

import pytest
import torch

from skingpt4.config.schema import VisionConfig
from skingpt4.model.encoders.encoder import VisionEncoder, VisionError
from skingpt4.weights.files.tensors import WeightsMismatch
from tests.support.tiny import (
    EVA,
    IMAGE_SIZE,
    vision_config,
)

DINO = "vit_small_patch14_reg4_dinov2"
THREE_BLOCKS = {"embed_dim": 32, "depth": 3, "num_heads": 2}


def eva(**changes) -> VisionEncoder:
    return VisionEncoder(vision_config(**changes)).eval()


@pytest.fixture
def image():
    return torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))


def lavis_file(path, encoder, **extra):
    """The file LAVIS publishes: the backbone's own keys without the final norm, and a head nobody uses."""
    tensors = {k: v for k, v in encoder.backbone.state_dict().items() if not k.startswith("norm.")}
    torch.save({**tensors, "head.weight": torch.zeros(3, 32), **extra}, path)
    return path


def test_eva_gives_the_class_token_and_every_patch_after_a_norm_of_the_asked_epsilon(image):
    encoder = eva()
    tokens = encoder(image)
    assert tokens.shape == (2, 1 + 4 * 4, 32) == (2, encoder.num_tokens, encoder.width)
    raw = eva(norm=False)
    raw.backbone.load_state_dict(encoder.backbone.state_dict())
    variance, mean = torch.var_mean(raw(image), -1, correction=0, keepdim=True)
    torch.testing.assert_close(tokens, (raw(image) - mean) / (variance + 1e-5).sqrt(), rtol=1e-4, atol=1e-5)
    assert eva(norm_eps=1e-6).backbone.norm.eps == 1e-6


def test_an_encoder_that_was_built_before_is_not_computed_again(monkeypatch):
    sizes = {"embed_dim": 48, "depth": 1, "num_heads": 3}  # of no other test
    first = eva(model_args=sizes)
    forward = VisionEncoder.forward
    monkeypatch.setattr(VisionEncoder, "forward", lambda *args: pytest.fail("computed again"))
    second = eva(model_args=sizes)
    assert (second.num_tokens, second.width) == (first.num_tokens, first.width) == (17, 48)
    monkeypatch.setattr(VisionEncoder, "forward", forward)
    assert eva(model_args=sizes, image_size=28).num_tokens == 5


def test_a_lavis_file_loads_whole_and_leaves_the_norm_to_ln_vision(tmp_path, image):
    source, target = eva(), eva()
    torch.nn.init.normal_(source.backbone.norm.weight)
    torch.nn.init.normal_(source.backbone.norm.bias)
    target.load(lavis_file(tmp_path / "eva_vit_g.pth", source))
    assert not torch.allclose(target(image), source(image))
    norm = source.backbone.norm
    blip2 = {
        "ln_vision.weight": norm.weight.data,
        "ln_vision.bias": norm.bias.data,
        "query_tokens": norm.bias.data,
    }
    torch.save({"model": blip2}, tmp_path / "blip2.pth")
    target.load_ln_vision(tmp_path / "blip2.pth")
    assert torch.equal(target(image), source(image))


def test_a_missing_tensor_is_refused_by_name(tmp_path):
    encoder = eva()
    path = lavis_file(tmp_path / "cut.pth", encoder)
    tensors = torch.load(path)
    del tensors["blocks.1.attn.q_bias"]
    torch.save(tensors, path)
    before = {key: value.clone() for key, value in encoder.backbone.state_dict().items()}
    with pytest.raises(WeightsMismatch, match=r"cut\.pth .*missing 1: blocks\.1\.attn\.q_bias"):
        encoder.load(path)
    assert all(torch.equal(value, before[key]) for key, value in encoder.backbone.state_dict().items())


def test_ln_vision_missing_or_of_another_width_is_refused(tmp_path):
    torch.save({"model": {"query_tokens": torch.zeros(1)}}, tmp_path / "none.pth")
    with pytest.raises(WeightsMismatch, match="no ln_vision"):
        eva().load_ln_vision(tmp_path / "none.pth")
    wide = {f"ln_vision.{key}": torch.ones(64) for key in ("weight", "bias")}
    torch.save({"model": wide}, tmp_path / "wide.pth")
    with pytest.raises(WeightsMismatch, match=r"weight \(64,\) instead of \(32,\)"):
        eva().load_ln_vision(tmp_path / "wide.pth")


@pytest.mark.parametrize("model", [EVA, DINO])
@pytest.mark.parametrize("norm", [False, True])
def test_a_block_gives_what_a_hook_sees_there(model, norm, image):
    encoder = VisionEncoder(VisionConfig(model, THREE_BLOCKS, None, IMAGE_SIZE, block=2, norm=norm)).eval()
    seen = []
    encoder.backbone.blocks[1].register_forward_hook(lambda *args: seen.append(args[2]))
    tokens = encoder(image)
    expected = encoder.backbone.norm(seen[0]) if norm else seen[0]
    expected = torch.cat([expected[:, :1], expected[:, -16:]], dim=1)  # no registers
    assert tokens.shape == (2, 17, 32)
    torch.testing.assert_close(tokens, expected)


@pytest.mark.parametrize(("model", "size"), [(DINO, IMAGE_SIZE), ("vit_small_patch16_dinov3", 64)])
def test_registers_are_dropped(model, size):
    encoder = VisionEncoder(VisionConfig(model, THREE_BLOCKS, image_size=size)).eval()
    image = torch.randn(1, 3, size, size)
    tokens, everything = encoder(image), encoder.backbone.forward_features(image)
    assert everything.shape[1] == 1 + 4 + 16
    assert tokens.shape[1] == encoder.num_tokens == 17
    assert torch.equal(tokens, torch.cat([everything[:, :1], everything[:, 5:]], dim=1))


def test_a_cnn_gives_its_map_row_by_row():
    encoder = VisionEncoder(VisionConfig("resnet10t", image_size=96)).eval()
    image = torch.randn(1, 3, 96, 96)
    tokens, features = encoder(image), encoder.backbone.forward_features(image)
    assert tokens.shape == (1, 9, encoder.width) == (1, encoder.num_tokens, features.shape[1])
    for number in range(9):
        assert torch.equal(tokens[0, number], features[0, :, number // 3, number % 3])


def test_a_channels_last_map_keeps_its_width():
    args = {"depths": (1, 1, 1, 1), "embed_dim": 24}
    encoder = VisionEncoder(VisionConfig("swin_tiny_patch4_window7_224", args, image_size=64))
    assert (encoder.num_tokens, encoder.width) == (4, encoder.backbone.num_features)


def test_a_block_of_a_backbone_without_class_token():
    config = VisionConfig("vit_base_patch16_siglip_224", THREE_BLOCKS, image_size=64, block=2, norm=False)
    encoder = VisionEncoder(config)
    assert (encoder.num_tokens, encoder.width) == (16, 32)


def test_what_timm_does_not_have_is_refused_with_something_near():
    with pytest.raises(VisionError, match=r"vision\.model: timm has no 'eva_gigant'; near: .*eva"):
        VisionEncoder(VisionConfig("eva_gigant"))


def test_what_a_backbone_does_not_have_is_refused():
    for block in (0, 3):
        with pytest.raises(VisionError, match=rf"vision\.block: {EVA} has blocks 1 to 2, not {block}"):
            eva(block=block)
    for model in ("resnet10t", "efficientnet_lite0"):  # the latter's `blocks` are stages
        for asked in ({"block": 1}, {"norm": False}, {"norm_eps": 1e-5}):
            with pytest.raises(VisionError, match=rf"vision\.block, norm .*{model}"):
                VisionEncoder(VisionConfig(model, image_size=64, **asked))


def test_a_picture_that_is_no_multiple_of_the_patches_is_refused():
    with pytest.raises(VisionError, match=r"image_size: .* 14 pixels, and 60 is not a .*; choose 56 or 70"):
        VisionEncoder(vision_config(image_size=60))
    VisionEncoder(VisionConfig("resnet10t", image_size=60))
