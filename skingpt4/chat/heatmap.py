"""Where the encoder looked: the Q-Former's cross-attention over the patches, laid over a copy of the picture."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from skingpt4.model.network import ImageEncoder, SkinGPT4, half_precision
from skingpt4.records.images import to_rgb, to_tensor
from skingpt4.support.errors import UserError

HEATMAP_NOTE = (
    "The map shows where the frozen encoder's attention lay, on average, before the question was read; it shows "
    "neither why the answer says what it says, nor that a place without colour was not used."
)
STRONGEST = 0.65  # opacity of the highest place
LEAST_PEAK = 3.0  # times the mean: below, even attention would be stretched into a pattern that is not there
COLOURS = "inferno"


class HeatmapError(UserError):
    """No map can be made of this model; the message says why."""


def heatmap(model: SkinGPT4, image: Image.Image) -> Image.Image:
    """A copy of the picture with the attention over it: clear where it is even or below, the more opaque the higher.

    The picture is shown whole and in its own proportions; the encoder sees it squeezed into a square, and so the map
    is stretched back.

    Args:
        model: the network with its encoder.
        image: any mode.

    Raises:
        HeatmapError: the model has no encoder, or its tokens lie on no grid.
        ImageError: the picture is too small.
    """
    rgb = to_rgb(image)
    return overlay(rgb, attention_map(model.encoder, rgb))


def attention_map(encoder: ImageEncoder | None, image: Image.Image) -> np.ndarray:
    """Attention on each patch, (rows, columns) fp32, as a multiple of even attention (its mean is 1).

    The mean over all heads, queries and cross-attention layers; what falls on the class token is left out.

    Args:
        encoder: of either backend.
        image: upright RGB.

    Raises:
        HeatmapError: no encoder, or its tokens lie on no grid.
    """
    if encoder is None:
        raise HeatmapError(
            "the model was loaded without its image encoder, so there is no map of its attention"
        )
    vision = encoder.vision_encoder
    side = math.isqrt(vision.num_tokens - vision.num_prefix)
    if side**2 != vision.num_tokens - vision.num_prefix or side < 2:
        raise HeatmapError(
            f"the vision encoder gives {vision.num_tokens} tokens, which lie on no square grid: no map can be shown"
        )
    pixels = to_tensor(image, vision.image_size, vision.mean, vision.std)
    device = next(encoder.parameters()).device
    with torch.no_grad(), half_precision(device, encoder.precision):
        tokens = vision(pixels[None].to(device))
        with _cross_attention(encoder.qformer) as read:
            encoder.qformer(tokens)
    if not read:
        raise HeatmapError("this Q-Former has no cross-attention that can be read: no map can be shown")
    patches = torch.stack(read).mean(0)[vision.num_prefix :].reshape(side, side)
    return (patches / patches.mean()).cpu().numpy()


@contextmanager
def _cross_attention(qformer: torch.nn.Module) -> Iterator[list[Tensor]]:
    """Collects, for each cross-attention layer that this thread runs, the mean attention on each token, (n,) fp32.

    The weights are computed again of the layer's own queries and keys, since fused attention never makes them; both
    backends name those alike.
    """
    found: list[Tensor] = []
    hooks = []
    mine = threading.get_ident()
    for name, module in qformer.named_modules():
        if "crossattention" not in name or not (hasattr(module, "query") and hasattr(module, "key")):
            continue
        heads, queries, keys = int(module.num_attention_heads), dict[int, Tensor](), dict[int, Tensor]()

        def keep_query(_: Any, __: Any, out: Tensor, kept: dict[int, Tensor] = queries) -> None:
            kept[threading.get_ident()] = out

        def keep_key(_: Any, __: Any, out: Tensor, kept: dict[int, Tensor] = keys) -> None:
            kept[threading.get_ident()] = out

        def weigh(
            _: Any, __: Any, ___: Any, queries: dict = queries, keys: dict = keys, heads: int = heads
        ) -> None:
            who = threading.get_ident()  # another session may encode a picture at the same time
            query, key = queries.pop(who, None), keys.pop(who, None)
            if who == mine and query is not None and key is not None:
                found.append(_mean_weights(query, key, heads))

        hooks += [
            module.query.register_forward_hook(keep_query),
            module.key.register_forward_hook(keep_key),
            module.register_forward_hook(weigh),
        ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _mean_weights(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Softmax attention of queries (b, q, d) on keys (b, n, d), averaged over b, heads and q: (n,) fp32."""
    split_query, split_key = (x.float().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key))
    with torch.autocast(query.device.type, enabled=False):  # which would round the product to half precision
        scores = split_query @ split_key.transpose(-1, -2) / math.sqrt(split_query.shape[-1])
        return scores.softmax(-1).mean((0, 1, 2))


def overlay(image: Image.Image, attention: np.ndarray) -> Image.Image:
    """Lay a map over a copy of a picture.

    Args:
        image: RGB.
        attention: (rows, columns) over the whole picture, as multiples of its mean.
    """
    above = (attention - 1) / (max(float(attention.max()), LEAST_PEAK) - 1)
    # Interpolated in fp32 before it is clipped, so that slopes go on below what is seen.
    smooth = Image.fromarray(above.astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    level = np.clip(np.asarray(smooth), 0, 1)
    colour = colormaps[COLOURS](0.35 + 0.6 * level)[..., :3] * 255
    opacity = (STRONGEST * np.sqrt(level))[..., None]
    mixed = np.asarray(image, np.float32) * (1 - opacity) + colour * opacity
    return Image.fromarray((mixed + 0.5).astype(np.uint8))
