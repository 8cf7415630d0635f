"""Where the encoder looked: the Q-Former's cross-attention over the patches, laid over a copy of the image.

Hooks collect the attention, so only one thread may run the encoder meanwhile: call it through `Decoder.run`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from skingpt4.chat.exporting.record import MAX_SIDE, reduced_copy
from skingpt4.model.network import ImageEncoder, SkinGPT4
from skingpt4.model.precision import half_precision
from skingpt4.model.projection import Pooling
from skingpt4.records.images import clean_rgb, to_tensor
from skingpt4.support.errors import UserError

MAX_OPACITY = 0.65
MIN_PEAK = 3.0  # times the mean; scaled to a lower one, even attention would show a pattern that is not there
COLOURS = "inferno"


class HeatmapError(UserError):
    """No map can be made of this model; the message says why."""


def heatmap(model: SkinGPT4, image: Image.Image, pixels: Tensor | None = None) -> Image.Image:
    """A copy of the image with the attention over it: clear where it is even or lower, more opaque the higher it is.

    The copy has at most MAX_SIDE pixels a side: drawing takes 60 bytes for each of them.

    The encoder sees the image squeezed into a square, so the map is stretched back to the image's proportions.

    Args:
        model: the network with its encoder.
        image: any mode.
        pixels: what the encoder saw of it, (3, h, w) or (c, 3, h, w), if the image here is only a reduced copy.

    Raises:
        HeatmapError: the model has no encoder or no Q-Former, or its tokens lie on no grid.
        ImageError: the image is too small.
    """
    rgb = clean_rgb(image)
    attention = attention_map(model.encoder, rgb if pixels is None else pixels)
    if max(rgb.size) > MAX_SIDE:
        rgb = reduced_copy(rgb)
    return overlay(rgb, attention)


def attention_map(encoder: ImageEncoder | None, image: Image.Image | Tensor) -> np.ndarray:
    """Attention on each patch, (rows, columns) fp32, as a multiple of even attention (its mean is 1).

    The mean over all heads, queries and cross-attention layers, without the class token.

    Args:
        encoder: of either backend.
        image: upright RGB, or what the encoder sees of it, (3, h, w) or (c, 3, h, w).

    Raises:
        HeatmapError: no encoder or Q-Former, or its tokens lie on no grid.
    """
    if encoder is None:
        raise HeatmapError(
            "the model was loaded without its image encoder, so there is no map of its attention"
        )
    if isinstance(encoder.qformer, Pooling):
        raise HeatmapError("this model has no Q-Former, whose attention the map would show")
    vision = encoder.vision_encoder
    side = math.isqrt(vision.num_tokens - vision.num_prefix)
    if side**2 != vision.num_tokens - vision.num_prefix or side < 2:
        raise HeatmapError(
            f"the vision encoder gives {vision.num_tokens} tokens, which lie on no square grid: no map can be shown"
        )
    pixels = (
        image
        if isinstance(image, Tensor)
        else to_tensor(image, vision.image_size, vision.mean, vision.std, interpolation=vision.interpolation)
    )
    device = next(encoder.parameters()).device
    pixels = pixels[0] if pixels.dim() == 4 else pixels  # of several crops the complete picture is the first
    with torch.no_grad(), half_precision(device, encoder.precision):
        tokens = vision(pixels[None].to(device))
        with _cross_attention(encoder.qformer) as layers:
            encoder.qformer(tokens)
    if not layers:
        raise HeatmapError("this Q-Former has no cross-attention that can be read: no map can be shown")
    patches = torch.stack(layers).mean(0)[vision.num_prefix :].reshape(side, side)
    return (patches / patches.mean()).cpu().numpy()


@contextmanager
def _cross_attention(qformer: torch.nn.Module) -> Iterator[list[Tensor]]:
    """Collects the mean attention on each token, (n,) fp32, of every cross-attention layer that runs.

    The weights are computed again from the layer's own queries and keys, since fused attention never makes them. Both
    backends use the same names for those.
    """
    collected: list[Tensor] = []
    hooks = []
    for name, module in qformer.named_modules():
        if "crossattention" in name and hasattr(module, "query") and hasattr(module, "key"):
            outputs: dict[str, Tensor] = {}
            hooks += [
                module.query.register_forward_hook(partial(_store, outputs, "query")),
                module.key.register_forward_hook(partial(_store, outputs, "key")),
                module.register_forward_hook(partial(_collect, outputs, collected)),
            ]
    try:
        yield collected
    finally:
        for hook in hooks:
            hook.remove()


def _store(outputs: dict[str, Tensor], name: str, module: Any, inputs: Any, output: Tensor) -> None:
    outputs[name] = output


def _collect(
    outputs: dict[str, Tensor], collected: list[Tensor], module: Any, inputs: Any, output: Any
) -> None:
    collected.append(_mean_weights(outputs["query"], outputs["key"], int(module.num_attention_heads)))


def _mean_weights(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Softmax attention of queries (b, q, d) on keys (b, n, d), averaged over b, heads and q: (n,) fp32."""
    split_query, split_key = (x.float().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key))
    with torch.autocast(query.device.type, enabled=False):  # which would round the product to half precision
        scores = split_query @ split_key.transpose(-1, -2) / math.sqrt(split_query.shape[-1])
        return scores.softmax(-1).mean((0, 1, 2))


def overlay(image: Image.Image, attention: np.ndarray) -> Image.Image:
    """Lay a map over a copy of an image.

    Args:
        image: RGB.
        attention: (rows, columns) over the complete image, as multiples of its mean.
    """
    above = (attention - 1) / (max(float(attention.max()), MIN_PEAK) - 1)
    # Interpolated in fp32 before it is clipped, so that slopes continue below what is visible.
    smooth = Image.fromarray(above.astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    level = np.clip(np.asarray(smooth), 0, 1)
    colour = colormaps[COLOURS](0.35 + 0.6 * level)[..., :3] * 255
    opacity = (MAX_OPACITY * np.sqrt(level))[..., None]
    mixed = np.asarray(image, np.float32) * (1 - opacity) + colour * opacity
    return Image.fromarray((mixed + 0.5).astype(np.uint8))
