import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from skingpt4.chat.heatmap import HeatmapError, attention_map, heatmap, overlay
from skingpt4.config.schema import VisionConfig
from skingpt4.model.encoders.encoder import VisionEncoder
from skingpt4.model.network import ImageEncoder, SkinGPT4
from skingpt4.model.qformer import QFormer
from skingpt4.records.images import to_tensor
from tests.support.tiny import (
    make_encoder,
    make_model,
    make_picture,
    qformer_config,
)


class Brightness(nn.Module):
    """Patches of 14 pixels as tokens of their own brightness, behind a class token: what a test can see through."""

    mean, std, image_size, num_tokens, num_prefix, width = (0.0,) * 3, (1.0,) * 3, 56, 17, 1, 8
    interpolation = "bicubic"

    def forward(self, image):
        bright = nn.functional.avg_pool2d(image.mean(1, keepdim=True), 14).flatten(1)
        return torch.cat([torch.ones(len(image), 1), bright], 1)[..., None].expand(-1, -1, self.width)


def planted() -> ImageEncoder:
    """An encoder whose queries all attend to what is bright."""
    qformer = QFormer(qformer_config(), Brightness.width)
    with torch.no_grad():
        for name, module in qformer.named_modules():
            if "crossattention" in name and hasattr(module, "query"):
                module.query.weight.zero_()
                module.query.bias.fill_(1)
                module.key.weight.fill_(1)
                module.key.bias.zero_()
    return ImageEncoder(Brightness(), qformer, "float32")


@pytest.fixture(scope="module")
def eva():
    encoder = make_encoder()
    encoder.precision = "float32"  # what half precision does is a test of its own
    return encoder


def test_the_map_lies_where_the_attention_is_planted():
    """A picture twice as wide as high: the encoder sees it squeezed, the map is stretched back."""
    pixels = np.zeros((200, 400, 3), np.uint8)
    pixels[50:100, 300:400] = 255  # row 1, column 3 of 4 x 4
    picture = Image.fromarray(pixels)
    encoder = planted()
    attention = attention_map(encoder, picture)
    assert attention.shape == (4, 4)
    assert np.unravel_index(attention.argmax(), (4, 4)) == (1, 3)
    assert attention[1, 3] > 15
    assert attention.mean() == pytest.approx(1)
    grey = Image.new("RGB", picture.size, (120, 120, 120))
    shown = overlay(grey, attention)
    assert shown.size == picture.size
    changed = np.abs(np.asarray(shown, int) - 120).sum(-1)
    assert changed[60:90, 320:380].min() > 60
    assert changed[:, :200].max() == 0
    assert changed[150:].max() == 0
    rows, columns = np.nonzero(changed > changed.max() / 2)
    assert (rows.mean(), columns.mean()) == pytest.approx((75, 355), abs=8)


def test_the_weights_are_the_layers_own(eva):
    """Against the weights that the library returns if it computes attention without fusing."""
    picture = make_picture(1)
    attention = attention_map(eva, picture)
    weights = []
    config = eva.qformer.model.config
    before = config._attn_implementation
    hooks = [
        module.register_forward_hook(lambda _, __, out: weights.append(out[1]))
        for name, module in eva.qformer.named_modules()
        if name.endswith("crossattention.attention")
    ]
    config._attn_implementation = "eager"
    try:
        assert attention_map(eva, picture) == pytest.approx(attention, abs=1e-5)
    finally:
        config._attn_implementation = before
        for hook in hooks:
            hook.remove()
    patches = torch.stack(weights).mean((0, 1, 2, 3))[1:]  # without the class token
    assert attention.ravel() == pytest.approx((patches / patches.mean()).numpy(), rel=0.02)


def test_even_attention_leaves_the_picture_as_it_is():
    picture = make_picture(2)
    even = np.full((4, 4), 1, np.float32)
    assert np.array_equal(np.asarray(overlay(picture, even)), np.asarray(picture))
    even[1, 1] = 1.1
    assert np.abs(np.asarray(overlay(picture, even), int) - np.asarray(picture, int)).max() < 50


@pytest.mark.parametrize(
    ("name", "args", "size", "side"),
    [
        ("efficientnet_lite0", {}, 64, 2),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1), "embed_dim": 24}, 96, 3),
        ("vit_small_patch14_reg4_dinov2", {"embed_dim": 64, "depth": 1, "num_heads": 2}, 56, 4),
    ],
)
def test_feature_maps_and_registers_lie_on_their_grid(name, args, size, side):
    vision = VisionEncoder(VisionConfig(name, args, image_size=size))
    encoder = ImageEncoder(vision, QFormer(qformer_config(), vision.width))
    attention = attention_map(encoder, make_picture(3))
    assert attention.shape == (side, side)
    assert np.isfinite(attention).all()
    assert attention.mean() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_map_is_fp32_in_every_precision_of_the_encoder(eva, precision, monkeypatch):
    """Whichever this machine multiplies fast in: a map in half precision is no numpy array."""
    full = attention_map(eva, make_picture(7))
    monkeypatch.setattr(eva, "precision", precision)  # the weights stay fp32, as with auto
    attention = attention_map(eva, make_picture(7))
    assert attention.dtype == np.float32
    assert attention == pytest.approx(full, rel=0.1)


def test_the_model_is_left_as_it_was_and_the_picture_too(eva, tmp_path):
    model = make_model(tmp_path, encoder=eva)
    picture = make_picture(4).convert("RGBA")
    before, queries = picture.tobytes(), eva(torch.zeros(1, 3, 56, 56))
    shown = heatmap(model, picture)
    assert isinstance(model, SkinGPT4)
    assert (shown.size, shown.mode) == (picture.size, "RGB")
    assert picture.tobytes() == before
    assert torch.equal(eva(torch.zeros(1, 3, 56, 56)), queries)
    assert not any(module._forward_hooks for module in eva.modules())


def test_the_map_of_a_large_picture_is_drawn_on_a_reduced_copy(tmp_path):
    """Drawing takes 60 bytes a pixel: for 80 megapixels that was 5 GB."""
    model = make_model(tmp_path, encoder=planted())
    picture = make_picture(5).resize((1600, 800))
    whole = heatmap(model, picture)
    assert whole.size == (1200, 600)
    vision = model.encoder.vision_encoder
    pixels = to_tensor(picture, vision.image_size, vision.mean, vision.std)
    small = picture.copy()
    small.thumbnail((1200, 1200))
    assert heatmap(model, small, pixels).tobytes() == whole.tobytes()


def test_what_gives_no_map_says_so(tmp_path):
    with pytest.raises(HeatmapError, match="without its image encoder"):
        heatmap(make_model(tmp_path), make_picture(6))
    encoder = planted()
    encoder.vision_encoder.num_tokens = 16
    with pytest.raises(HeatmapError, match="no square grid"):
        attention_map(encoder, make_picture(6))
