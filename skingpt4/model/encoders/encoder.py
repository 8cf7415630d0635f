"""The frozen vision encoder: any timm backbone as a map from images to a sequence of tokens."""

from __future__ import annotations

import copy
import inspect
import math
import re
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from skingpt4.config.schema import VisionConfig
from skingpt4.support.errors import UserError
from skingpt4.weights.files.layouts import (
    NORM_NAMES,
    VISION_PREFIXES,
    is_lavis_vision,
    norm_recipes,
    unused,
    vision_recipes,
)
from skingpt4.weights.files.source import Recipe, TensorSource, load_into, open_source
from skingpt4.weights.files.tensors import WeightsMismatch


class VisionError(UserError):
    """A backbone that cannot be built as asked; the message says which key and why."""


class VisionEncoder(nn.Module):
    """A timm backbone without its classifier.

    EVA-ViT-g of BLIP-2 and SkinGPT-4 is `eva_giant_patch14_clip_224` with ``depth=39`` and ``norm_eps=1e-5``:
    timm's state-dict keys are then LAVIS's own, and timm's `norm` is LAVIS's `ln_vision`. Transformers give
    their class and patch tokens (registers are dropped); a CNN's feature map becomes tokens row by row.

    It starts with random weights.

    Args:
        config: `model` is a timm name and `model_args` go to timm; `image_size` is the side of the square input in
            pixels; tokens are those after `block` (1 is the first, None the last), through the final norm if `norm`
            is set; `norm_eps`, `mean` and `std` replace timm's. `weights` is not read here.

    Raises:
        VisionError: no such timm model, or no such block.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.backbone: Any = _create(config)
        self.block, self.norm, self.image_size = config.block, config.norm, config.image_size
        self.has_norm_weights = True  # False between LAVIS's EVA file and the ln_vision of the Q-Former's
        self.mean = tuple(config.mean or self.backbone.pretrained_cfg["mean"])
        self.std = tuple(config.std or self.backbone.pretrained_cfg["std"])
        with torch.no_grad():
            self.num_tokens, self.width = self._probe()

    @property
    def num_prefix(self) -> int:
        """How many tokens precede those of the patches: the class token, if there is one."""
        return int(getattr(self.backbone, "cls_token", None) is not None)

    def forward(self, image: Tensor) -> Tensor:
        """Map images (b, 3, h, w), normalised, to tokens (b, n, d)."""
        backbone = self.backbone
        if self.block is None and self.norm:
            tokens = backbone.forward_features(image)
            if tokens.dim() == 4:  # a feature map: (b, d, h, w), or (b, h, w, d) in Swin and others
                width_last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
                return tokens.flatten(1, 2) if width_last else tokens.flatten(2).transpose(1, 2)
            num_prefix = getattr(backbone, "num_prefix_tokens", 0)
            prefix, patches = tokens[:, :num_prefix], tokens[:, num_prefix:]
        else:
            last_block = (len(backbone.blocks) if self.block is None else self.block) - 1
            (of_block,) = backbone.forward_intermediates(
                image, indices=[last_block], norm=self.norm, stop_early=True, output_fmt="NLC",
                intermediates_only=True, return_prefix_tokens=True,
            )  # fmt: skip
            patches, prefix = of_block if isinstance(of_block, tuple) else (of_block, of_block[:, :0])
        # Registers are scratch space of the backbone; of the prefix only a class token describes the image.
        return torch.cat([prefix[:, : self.num_prefix], patches], dim=1)

    def load(
        self,
        path: str | Path | TensorSource,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> list[str]:
        """Load weights strictly: our safetensors, LAVIS's `eva_vit_g.pth`, or a Hugging Face BLIP-2 directory.

        LAVIS's file has no final norm (`ln_vision` is in the Q-Former's) and may hold more than the encoder:
        a 40th block, a head. Positions learned at another image size are resampled.

        Args:
            path: the file or directory.
            device: where the encoder will be.
            dtype: of its weights; None leaves the module's own (fp32).

        Returns:
            The names of the file's tensors that were not used.

        Raises:
            WeightsMismatch: a tensor is missing, of another shape, or (in our own files) not expected.
        """
        source = open_source(path, VISION_PREFIXES)
        recipes = vision_recipes(source)
        if "pos_embed" in recipes and hasattr(self.backbone, "pos_embed"):
            recipes["pos_embed"] = self._positions(*recipes["pos_embed"], source)
        lavis = is_lavis_vision(source)
        if lavis or Path(path).suffix != ".safetensors":
            own = self.backbone.state_dict()
            recipes = {name: recipe for name, recipe in recipes.items() if name in own}
        left_out = ("norm.",) if lavis else ()
        load_into(self.backbone, source, recipes, "vision encoder", device, dtype, left_out)
        self.has_norm_weights = not lavis
        return unused(source, recipes.values())

    def _positions(self, name: str, unchanged: Any, source: TensorSource) -> Recipe:
        """Resample learned positions to this image size as LAVIS does: bicubic, without the class token's."""
        theirs, ours = source.header[name], self.backbone.pos_embed  # (1, n, d) where they can be resampled
        has_prefix = not getattr(self.backbone, "no_embed_class", False)
        prefix = getattr(self.backbone, "num_prefix_tokens", 0) if has_prefix else 0
        if theirs.dim() != 3 or ours.dim() != 3 or theirs.shape == ours.shape:
            return name, unchanged
        sides = [math.isqrt(max(0, positions.shape[1] - prefix)) for positions in (theirs, ours)]
        if any(side**2 + prefix != p.shape[1] for side, p in zip(sides, (theirs, ours), strict=True)):
            return name, unchanged  # not a square grid: the shapes are refused

        def resample(positions: Tensor) -> Tensor:
            side = [sides[1], sides[1]]
            return resample_abs_pos_embed(positions, side, num_prefix_tokens=prefix, antialias=False)

        return name, resample

    def load_ln_vision(
        self,
        path: str | Path | TensorSource,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        """Load `ln_vision` out of a BLIP-2 checkpoint (LAVIS's, or a Hugging Face directory) into the final norm.

        Raises:
            WeightsMismatch: the file has no `ln_vision`, or of another width.
        """
        source = open_source(path, NORM_NAMES)
        recipes = norm_recipes(source)
        if not recipes:
            raise WeightsMismatch(f"{path}: holds no ln_vision; give the BLIP-2 checkpoint of the Q-Former")
        load_into(self.backbone.norm, source, recipes, "ln_vision", device, dtype)
        self.has_norm_weights = True

    def _probe(self) -> tuple[int, int]:
        """Number and width of the tokens."""
        meta = any(p.is_meta for p in self.parameters())
        # Shapes need no memory; buffers are real even on the meta device, so a copy of them is converted.
        probed = copy.deepcopy(self).to("meta") if meta else self
        training = self.training
        side = self.image_size
        tokens = probed.eval()(torch.zeros(1, 3, side, side, device="meta" if meta else "cpu"))
        self.train(training)
        return tokens.shape[1], tokens.shape[2]


def _create(config: VisionConfig) -> Any:
    """The timm model with random weights, once it is known to do what the configuration asks for."""
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
