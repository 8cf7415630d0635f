"""The frozen vision encoder: a network of timm, open_clip or transformers as a map from images to tokens."""

from __future__ import annotations

import copy
import math
import os
from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from skingpt4.config.schema import VisionConfig
from skingpt4.config.vision_files import HUB, TRANSFORMERS, kind, own_values, place
from skingpt4.model.encoders.described import timm_config
from skingpt4.model.encoders.timm_backbone import VisionError, timm_backbone
from skingpt4.model.encoders.transformers_backbone import TransformersBackbone
from skingpt4.weights.files.layouts import (
    NORM_NAMES,
    VISION_PREFIXES,
    is_lavis_vision,
    norm_recipes,
    tower_recipes,
    unused,
    vision_recipes,
)
from skingpt4.weights.files.source import Recipe, TensorSource, load_into, open_source
from skingpt4.weights.files.tensors import WeightsMismatch

# Number and width of the tokens, by what they depend on: a run builds its encoder twice, first without weights.
_LAYOUTS: dict[tuple[Any, ...], tuple[int, int]] = {}


class VisionEncoder(nn.Module):
    """A backbone without its classifier, text tower and pooling.

    EVA-ViT-g of BLIP-2 and SkinGPT-4 is `eva_giant_patch14_clip_224` with ``depth=39`` and ``norm_eps=1e-5``:
    timm's state-dict keys are then LAVIS's own, and timm's `norm` is LAVIS's `ln_vision`. Transformers give
    their class token, if they have one, and patch tokens; registers are dropped. A CNN's feature map becomes
    tokens row by row. open_clip's towers are computed by timm, those of transformers by its own classes.

    It starts with random weights.

    Args:
        config: `model` is a timm name (`model_args` go to timm), or names a folder or file; `image_size` is the
            side of the square input in pixels; tokens are those after `block` (1 is the first, None the last),
            through the final norm if `norm` is set; `norm_eps`, `mean` and `std` replace the model's own.
            `weights` is not read here.

    Raises:
        VisionError: no such model, no such block, or a network that is not computed here.
        VisionFilesError: a folder's configuration is missing or damaged.
        WeightsMismatch: PanDerm's file cannot be read.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        own: dict[str, Any] = {}
        self.strict = True  # refuses tensors of a file that the backbone has not
        if folder := place(config.model):
            _require_there(config.model, folder)
            own, self.strict = own_values(config.model), False
        if folder and kind(folder) == TRANSFORMERS:
            self.backbone: Any = TransformersBackbone(config, folder)
        else:
            config = timm_config(config, folder) if folder else config
            self.backbone = timm_backbone(config)
            # Of a folder as well: what timm gives for the name counts where the folder gives nothing.
            own = {**self.backbone.pretrained_cfg, **{k: v for k, v in own.items() if v is not None}}
        self.block, self.norm, self.image_size = config.block, config.norm, config.image_size
        self.has_norm_weights = True  # False between LAVIS's EVA file and the ln_vision of the Q-Former's
        self.mean = _channels("mean", config.mean or own.get("mean"), config.model)
        self.std = _channels("std", config.std or own.get("std"), config.model)
        self.interpolation = config.interpolation
        names = (config.model, config.image_size, config.block, config.norm, repr(config.model_args))
        if folder or names not in _LAYOUTS:
            with torch.no_grad():
                _LAYOUTS[names] = self._probe()
        self.num_tokens, self.width = _LAYOUTS[names]

    @property
    def num_prefix(self) -> int:
        """How many tokens precede those of the patches: the class token, if there is one."""
        if isinstance(self.backbone, TransformersBackbone):
            return int(self.backbone.tower.has_class_token)
        return int(getattr(self.backbone, "cls_token", None) is not None)

    @property
    def num_registers(self) -> int:
        """How many tokens of the backbone are neither class token nor patch; they are left out."""
        return max(0, int(getattr(self.backbone, "num_prefix_tokens", 0)) - self.num_prefix)

    def forward(self, image: Tensor) -> Tensor:
        """Map images (b, 3, h, w), normalised, to tokens (b, n, d)."""
        backbone = self.backbone
        if isinstance(backbone, TransformersBackbone):
            tokens = backbone(image)
            prefix, patches = tokens[:, : backbone.num_prefix_tokens], tokens[:, backbone.num_prefix_tokens :]
        elif self.block is None and self.norm:
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
        """Load weights strictly: our safetensors, LAVIS's `eva_vit_g.pth`, or the files of a model's folder.

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
        if isinstance(self.backbone, TransformersBackbone):
            module, recipes = self.backbone.network, tower_recipes(source, self.backbone.network.state_dict())
            load_into(module, source, recipes, "vision encoder", device, dtype)
            return unused(source, recipes.values())
        recipes = vision_recipes(source)
        if "pos_embed" in recipes and hasattr(self.backbone, "pos_embed"):
            recipes["pos_embed"] = self._positions(*recipes["pos_embed"], source)
        lavis = is_lavis_vision(source)
        if lavis or not self.strict or Path(path).suffix != ".safetensors":
            own = self.backbone.state_dict()
            recipes = {name: recipe for name, recipe in recipes.items() if name in own}
        left_out = ("norm.",) if lavis else ()
        load_into(self.backbone, source, recipes, "vision encoder", device, dtype, left_out)
        self.has_norm_weights = not lavis
        return unused(source, recipes.values())

    def _positions(self, name: str, transform: Any, source: TensorSource) -> Recipe:
        """Resample learned positions to this image size as LAVIS does: bicubic, without the class token's."""
        theirs, ours = (
            transform(source.header[name]),
            self.backbone.pos_embed,
        )  # (1, n, d) if they can be resampled
        if ours is None:
            return name, transform
        has_prefix = not getattr(self.backbone, "no_embed_class", False)
        prefix = getattr(self.backbone, "num_prefix_tokens", 0) if has_prefix else 0
        if theirs.dim() != 3 or ours.dim() != 3 or theirs.shape == ours.shape:
            return name, transform
        sides = [math.isqrt(max(0, positions.shape[1] - prefix)) for positions in (theirs, ours)]
        if any(side**2 + prefix != p.shape[1] for side, p in zip(sides, (theirs, ours), strict=True)):
            return name, transform  # not a square grid: the shapes are refused

        def resample(positions: Tensor) -> Tensor:
            side = [sides[1], sides[1]]
            return resample_abs_pos_embed(
                transform(positions), side, num_prefix_tokens=prefix, antialias=False
            )

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


def _require_there(model: str, folder: Path) -> None:
    if os.path.exists(folder):
        return
    how = (
        f"run `skingpt4 weights fetch {model}`, or name its folder"
        if model.startswith(HUB)
        else "name its folder"
    )
    raise VisionError(f"vision.model: {model} is not here ({folder} does not exist); {how}")


def _channels(name: str, values: Any, model: str) -> tuple[float, ...]:
    """Mean or standard deviation of the input, which the weights were trained with."""
    if not values:
        raise VisionError(
            f"vision.{name}: {model} does not say it (its folder lacks preprocessor_config.json); fetch that file "
            f"too, or set vision.{name}"
        )
    return tuple(values)
