"""Backbones of timm: by their names in timm, or as open_clip, timm's own folders and PanDerm's file describe them."""

from __future__ import annotations

import inspect
import re
from typing import Any

import timm

from skingpt4.config.schema import VisionConfig
from skingpt4.support.errors import UserError


class VisionError(UserError):
    """A backbone that cannot be built as asked; the message says which key and why."""


def timm_backbone(config: VisionConfig) -> Any:
    """The timm model with random weights, once it is known to do what the configuration asks for.

    Raises:
        VisionError: no such timm model, or it cannot do that.
    """
    model = config.model
    args = {"num_classes": 0, **config.model_args}
    if not timm.is_model(model):
        near = timm.list_models(f"*{model.split('_')[0]}*")[:5]
        raise VisionError(
            f"vision.model: timm has no '{model}'{'; near: ' + ', '.join(near) if near else ''}"
        )
    _require_patches(model, config.image_size, args)
    backbone = _create_model(model, config.image_size, args)
    _require_blocks(config, backbone)
    if config.norm_eps is not None:
        backbone.norm.eps = config.norm_eps
    return backbone


def _require_patches(model: str, image_size: int, args: dict[str, Any]) -> None:
    """Refuse an image size that is not a number of patches; timm would silently drop the rest."""
    patch = re.search(r"patch(\d+)", model)
    side = args.get("patch_size", int(patch[1]) if patch else 1)
    if image_size % side:
        below = max(1, image_size // side) * side
        raise VisionError(
            f"vision.image_size: {model} cuts pictures into squares of {side} pixels, and {image_size} is not a "
            f"multiple of that; choose {below} or {below + side}"
        )


def _create_model(model: str, image_size: int, args: dict[str, Any]) -> Any:
    """The timm model; transformers fix their positions to an image size, CNNs do not take that argument."""
    sizes: tuple[dict[str, Any], ...] = ({"img_size": image_size}, {})
    for size in sizes:
        try:
            return timm.create_model(model, **size, **args)
        except TypeError as error:  # the one that timm raises for an argument it does not know
            problem: Exception = error
        except (KeyError, ValueError, AssertionError, RuntimeError) as error:  # each family raises its own
            problem = error
            break
    raise VisionError(
        f"vision.model_args: {model} cannot be built with them at {image_size} pixels "
        f"({type(problem).__name__}: {str(problem).splitlines()[0][:200] if str(problem) else 'no reason given'})"
    )


def _require_blocks(config: VisionConfig, backbone: Any) -> None:
    """Refuse what `block`, `norm` and `norm_eps` cannot mean for this backbone."""
    block, single = config.block, config.block is not None or not config.norm
    if not single and config.norm_eps is None:
        return
    if not hasattr(backbone, "norm") or not hasattr(backbone, "blocks"):
        raise VisionError(f"vision.block, norm and norm_eps are for transformers; {config.model} is not one")
    # Whether timm can return one block's tokens with those that precede the patches.
    method = getattr(backbone, "forward_intermediates", None)
    if single and (method is None or "return_prefix_tokens" not in inspect.signature(method).parameters):
        raise VisionError(
            f"vision.block and norm: timm does not return single blocks of {config.model}; leave them out"
        )
    if block is not None and not 1 <= block <= len(backbone.blocks):
        raise VisionError(f"vision.block: {config.model} has blocks 1 to {len(backbone.blocks)}, not {block}")
