"""The frozen vision encoder: any timm backbone as a map from pictures to a sequence of tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from skingpt4.tensors import WeightsMismatch, load_tensors, require_same_tensors


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
            ValueError: no such timm model, or no such block.
        """
        super().__init__()
        args = {"num_classes": 0, **(model_args or {})}
        if not timm.is_model(model):
            near = timm.list_models(f"*{model.split('_')[0]}*")[:5]
            raise ValueError(
                f"vision.model: timm has no '{model}'{'; near: ' + ', '.join(near) if near else ''}"
            )
        try:  # transformers fix their positions to a size; CNNs do not take the argument
            self.backbone = timm.create_model(model, img_size=image_size, **args)
        except TypeError:
            self.backbone = timm.create_model(model, **args)
        self.block, self.norm = block, norm
        if norm_eps is not None:
            self.backbone.norm.eps = norm_eps
        if block is not None and not 1 <= block <= len(getattr(self.backbone, "blocks", ())):
            raise ValueError(f"vision.block: {model} has no block {block}")
        self.mean = tuple(self.backbone.pretrained_cfg["mean"])
        self.std = tuple(self.backbone.pretrained_cfg["std"])
        with torch.no_grad():
            self.num_tokens, self.width = self._probe(image_size)

    def _probe(self, image_size: int) -> tuple[int, int]:
        training = self.training
        tokens = self.eval()(torch.zeros(1, 3, image_size, image_size))
        self.train(training)
        return tokens.shape[1], tokens.shape[2]

    def load(self, path: str | Path) -> None:
        """Load weights strictly: our safetensors, or LAVIS's `eva_vit_g.pth` (extra keys there are allowed).

        In the LAVIS file only `norm.*` is missing: it is `ln_vision` and stands in the Q-Former's file.

        Raises:
            WeightsMismatch: a tensor is missing, of another shape, or (in our own files) not expected.
        """
        tensors = load_tensors(path)
        wanted = self.backbone.state_dict()
        if Path(path).suffix == ".pth":
            tensors = {key: value for key, value in tensors.items() if key in wanted}
            tensors |= {key: wanted[key] for key in wanted if key.startswith("norm.") and key not in tensors}
        require_same_tensors(tensors, wanted, str(path), "vision encoder")
        self.backbone.load_state_dict(tensors, strict=True)

    def load_ln_vision(self, path: str | Path) -> None:
        """Load `ln_vision` out of a BLIP-2 checkpoint into the final norm.

        Raises:
            WeightsMismatch: the file has no `ln_vision`, or of another width.
        """
        tensors = load_tensors(path)
        norm = {key: tensors.get(f"ln_vision.{key}") for key in ("weight", "bias")}
        if any(value is None for value in norm.values()):
            raise WeightsMismatch(f"{path}: holds no ln_vision; give the BLIP-2 checkpoint of the Q-Former")
        require_same_tensors(norm, self.backbone.norm.state_dict(), str(path), "ln_vision")
        self.backbone.norm.load_state_dict(norm, strict=True)

    def forward(self, image: Tensor) -> Tensor:
        """Map pictures (b, 3, h, w), normalised, to tokens (b, n, d)."""
        if self.block is None and self.norm:
            tokens = self.backbone.forward_features(image)
        else:
            last = len(self.backbone.blocks) - 1 if self.block is None else self.block - 1
            ((patches, prefix),) = self.backbone.forward_intermediates(
                image, indices=[last], norm=self.norm, stop_early=True, output_fmt="NLC",
                intermediates_only=True, return_prefix_tokens=True,
            )  # fmt: skip
            return torch.cat([prefix[:, :1], patches], dim=1)
        if tokens.dim() == 4:
            return tokens.flatten(2).transpose(1, 2)
        registers = getattr(self.backbone, "num_reg_tokens", 0)
        if registers:
            prefix_length = self.backbone.num_prefix_tokens
            tokens = torch.cat([tokens[:, : prefix_length - registers], tokens[:, prefix_length:]], dim=1)
        return tokens
