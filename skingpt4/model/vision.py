"""The frozen vision encoder: any timm backbone as a map from pictures to a sequence of tokens."""

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


def _check_patches(model: str, image_size: int, args: dict[str, Any]) -> None:
    """Transformers cut a picture into squares; timm would silently drop what is left over."""
    patch = re.search(r"patch(\d+)", model)
    side = args.get("patch_size", int(patch[1]) if patch else 1)
    if image_size % side:
        below = max(1, image_size // side) * side
        raise VisionError(
            f"vision.image_size: {model} cuts pictures into squares of {side} pixels, and {image_size} is no "
            f"multiple of it; choose {below} or {below + side}"
        )


def _gives_blocks(backbone: Any) -> bool:
    """Whether timm can return one block's tokens with what stands before the patches."""
    method = getattr(backbone, "forward_intermediates", None)
    return method is not None and "return_prefix_tokens" in inspect.signature(method).parameters


def _create(model: str, image_size: int, args: dict[str, Any]) -> Any:
    """The timm model; transformers fix their positions to a picture's size, CNNs do not take that argument."""
    sizes: tuple[dict[str, Any], ...] = ({"img_size": image_size}, {})
    for sized in sizes:
        try:
            return timm.create_model(model, **sized, **args)
        except TypeError as error:  # the one that timm raises for an argument it does not know
            problem: Exception = error
        except (KeyError, ValueError, AssertionError, RuntimeError) as error:
            problem = error
            break
    raise VisionError(
        f"vision.model_args: {model} cannot be built with them at {image_size} pixels "
        f"({type(problem).__name__}: {str(problem).splitlines()[0][:200] if str(problem) else 'no reason given'})"
    )


class VisionEncoder(nn.Module):
    """A timm backbone without its classifier.

    EVA-ViT-g of BLIP-2 and SkinGPT-4 is `eva_giant_patch14_clip_224` with ``depth=39`` and ``norm_eps=1e-5``:
    timm's state-dict keys are then LAVIS's own, and timm's `norm` is LAVIS's `ln_vision`. Transformers give
    their class and patch tokens (registers are dropped); a CNN's feature map becomes tokens row by row.
    """

    def __init__(
        self,
        model: str,
        model_args: dict[str, Any] | None = None,
        image_size: int = 224,
        block: int | None = None,
        norm: bool = True,
        norm_eps: float | None = None,
    ) -> None:
        """Build with random weights.

        Args:
            model: a timm model name.
            model_args: more arguments for timm, e.g. ``{"depth": 39}``.
            image_size: side of the square input in pixels.
            block: take the tokens after this transformer block (1 is the first); None takes the last.
            norm: apply the final norm.
            norm_eps: epsilon of the final norm, where it differs from timm's.

        Raises:
            VisionError: no such timm model, or no such block.
        """
        super().__init__()
        args = {"num_classes": 0, **(model_args or {})}
        if not timm.is_model(model):
            near = timm.list_models(f"*{model.split('_')[0]}*")[:5]
            raise VisionError(
                f"vision.model: timm has no '{model}'{'; near: ' + ', '.join(near) if near else ''}"
            )
        _check_patches(model, image_size, args)
        self.backbone: Any = _create(model, image_size, args)
        self.block, self.norm, self.image_size = block, norm, image_size
        self.has_norm_weights = True  # False between LAVIS's EVA file and the ln_vision of the Q-Former's
        if block is not None or not norm or norm_eps is not None:
            if not hasattr(self.backbone, "norm") or not hasattr(self.backbone, "blocks"):
                raise VisionError(f"vision.block, norm and norm_eps are for transformers; {model} is none")
            if (block is not None or not norm) and not _gives_blocks(self.backbone):
                raise VisionError(
                    f"vision.block and norm: timm gives no single blocks of {model}; leave them out"
                )
            if block is not None and not 1 <= block <= len(self.backbone.blocks):
                raise VisionError(
                    f"vision.block: {model} has blocks 1 to {len(self.backbone.blocks)}, not {block}"
                )
        if norm_eps is not None:
            self.backbone.norm.eps = norm_eps
        self.mean = tuple(self.backbone.pretrained_cfg["mean"])
        self.std = tuple(self.backbone.pretrained_cfg["std"])
        with torch.no_grad():
            self.num_tokens, self.width = self._probe(image_size)

    def _probe(self, image_size: int) -> tuple[int, int]:
        meta = any(p.is_meta for p in self.parameters())
        # Shapes can be had without memory; buffers are real even then, so a copy of them goes along.
        probed = copy.deepcopy(self).to("meta") if meta else self
        training = self.training
        tokens = probed.eval()(torch.zeros(1, 3, image_size, image_size, device="meta" if meta else "cpu"))
        self.train(training)
        return tokens.shape[1], tokens.shape[2]

    def load(
        self,
        path: str | Path | TensorSource,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> list[str]:
        """Load weights strictly: our safetensors, LAVIS's `eva_vit_g.pth`, or a Hugging Face BLIP-2 directory.

        LAVIS's file has no final norm (`ln_vision` stands in the Q-Former's) and may hold more than the encoder:
        a 40th block, a head. Positions learned at another picture size are resampled.

        Args:
            path: the file or directory.
            device: where the encoder will be.
            dtype: of its weights; None keeps the module's own (fp32).

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
            wanted = self.backbone.state_dict()
            recipes = {name: recipe for name, recipe in recipes.items() if name in wanted}
        left_out = ("norm.",) if lavis else ()
        load_into(self.backbone, source, recipes, "vision encoder", device, dtype, left_out)
        self.has_norm_weights = not lavis
        return unused(source, recipes.values())

    def _positions(self, name: str, as_it_is: Any, source: TensorSource) -> Recipe:
        """Resample learned positions to this picture size as LAVIS does: bicubic, the class slot kept."""
        held, wanted = source.header[name], self.backbone.pos_embed
        prefix = (
            0
            if getattr(self.backbone, "no_embed_class", False)
            else getattr(self.backbone, "num_prefix_tokens", 0)
        )
        if held.dim() != 3 or wanted.dim() != 3 or held.shape == wanted.shape:
            return name, as_it_is
        sides = [math.isqrt(max(0, positions.shape[1] - prefix)) for positions in (held, wanted)]
        if any(side**2 + prefix != p.shape[1] for side, p in zip(sides, (held, wanted), strict=True)):
            return name, as_it_is  # not of a square grid: the shapes are refused

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

    @property
    def num_prefix(self) -> int:
        """How many tokens stand before those of the patches: the class token, if there is one."""
        return int(getattr(self.backbone, "cls_token", None) is not None)

    def forward(self, image: Tensor) -> Tensor:
        """Map pictures (b, 3, h, w), normalised, to tokens (b, n, d)."""
        backbone = self.backbone
        if self.block is None and self.norm:
            tokens = backbone.forward_features(image)
            if tokens.dim() == 4:  # a feature map: (b, d, h, w), or (b, h, w, d) in Swin and its kin
                last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
                return tokens.flatten(1, 2) if last else tokens.flatten(2).transpose(1, 2)
            prefix_length = getattr(backbone, "num_prefix_tokens", 0)
            prefix, patches = tokens[:, :prefix_length], tokens[:, prefix_length:]
        else:
            last_block = (len(backbone.blocks) if self.block is None else self.block) - 1
            (taken,) = backbone.forward_intermediates(
                image, indices=[last_block], norm=self.norm, stop_early=True, output_fmt="NLC",
                intermediates_only=True, return_prefix_tokens=True,
            )  # fmt: skip
            patches, prefix = taken if isinstance(taken, tuple) else (taken, taken[:, :0])
        # Registers are scratch space of the backbone; of the prefix only a class token describes the picture.
        return torch.cat([prefix[:, : self.num_prefix], patches], dim=1)
