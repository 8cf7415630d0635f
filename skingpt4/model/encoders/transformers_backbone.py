"""Vision towers of transformers, by its own code: CLIP, SigLIP and SigLIP 2 (MedSigLIP), DINOv2 and DINOv3."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skingpt4.config.schema import VisionConfig
from skingpt4.config.vision_files import MODEL_CONFIG, read_json, vision_config_of
from skingpt4.model.encoders.timm_backbone import VisionError

MAX_DEPTH = 1000
# Of a stored configuration: which of all its layers a feature pyramid reads, and what says nothing of the network.
_NOT_NEEDED = (
    "out_features",
    "out_indices",
    "stage_names",
    "torch_dtype",
    "architectures",
    "transformers_version",
)


@dataclass(frozen=True)
class Tower:
    """How one family is used: its class, the attribute of its final norm, and its tokens before the patches."""

    model: str
    norm: str
    has_class_token: bool = True
    interpolates: bool = False  # its positions, when asked to
    patchified: bool = False  # takes patches in place of an image
    applies_norm: bool = True  # to what it returns


_SIGLIP2 = Tower("Siglip2VisionModel", "post_layernorm", has_class_token=False, patchified=True)
_SIGLIP = Tower("SiglipVisionModel", "post_layernorm", has_class_token=False, interpolates=True)
# By the model_type of the tower's own configuration.
TOWERS = {
    "clip_vision_model": Tower("CLIPVisionModel", "post_layernorm", interpolates=True, applies_norm=False),
    "siglip_vision_model": _SIGLIP,
    "siglip2_vision_model": _SIGLIP2,
    "dinov2": Tower("Dinov2Model", "layernorm"),
    "dinov2_with_registers": Tower("Dinov2WithRegistersModel", "layernorm"),
    "dinov3_vit": Tower("DINOv3ViTModel", "norm"),
}


class TransformersBackbone(nn.Module):
    """A vision tower of transformers without pooling, up to the block that is asked for; random weights.

    Args:
        config: `block`, `norm`, `norm_eps` and `image_size` as in `VisionConfig`; `model_args` are refused.
        folder: with the `config.json` of the tower, or of a model that has one.

    Raises:
        VisionError: a family or sizes that are not computed here, or no such block.
        VisionFilesError: the configuration is missing or damaged.
    """

    def __init__(self, config: VisionConfig, folder: Path) -> None:
        super().__init__()
        import transformers

        values = dict(vision_config_of(model := read_json(folder / MODEL_CONFIG)))
        own = str(values.get("model_type") or model.get("model_type"))
        family = _OF_MODEL.get(own, own)
        if family not in TOWERS:
            raise VisionError(
                f"vision.model: {folder} is {own!r} in transformers, which is no vision encoder that is computed "
                f"here; these are: {', '.join(sorted({*TOWERS}))}, alone or in a model"
            )
        if config.model_args:
            raise VisionError(
                "vision.model_args: are for timm's networks; leave them out for one of transformers"
            )
        self.tower = TOWERS[family]
        needed = _shortened({**values, "model_type": family}, config, folder)
        try:
            shape = transformers.AutoConfig.for_model(**needed)
            self.network: Any = getattr(transformers, self.tower.model)._from_config(shape)
        except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError, RuntimeError) as error:
            raise VisionError(
                f"vision.model: {folder / MODEL_CONFIG} describes no usable {family} "
                f"({type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else 'no reason given'})"
            ) from None
        self.patch_size = _patch_size(shape, config, folder)
        self.num_prefix_tokens = int(self.tower.has_class_token) + int(
            getattr(shape, "num_register_tokens", 0)
        )
        self.resized = config.image_size != getattr(shape, "image_size", config.image_size)
        norm = getattr(self.network, self.tower.norm)
        if config.norm_eps is not None:
            norm.eps = config.norm_eps
        self.normed = config.norm
        if not config.norm:
            setattr(self.network, self.tower.norm, nn.Identity())

    @property
    def norm(self) -> nn.Module:
        """The final norm, or the identity."""
        return getattr(self.network, self.tower.norm)

    def forward(self, image: Tensor) -> Tensor:
        """Map images (b, 3, h, w), normalised, to tokens (b, n, d): class token, registers, patches."""
        if self.tower.patchified:
            tokens = self._of_patches(image)
        else:
            asked = {"interpolate_pos_encoding": True} if self.tower.interpolates and self.resized else {}
            tokens = self.network(image, **asked).last_hidden_state
        return self.norm(tokens) if self.normed and not self.tower.applies_norm else tokens

    def _of_patches(self, image: Tensor) -> Tensor:
        """SigLIP 2 of any aspect ratio reads patches (b, n, p * p * 3), row by row, channels last."""
        side, p = image.shape[-1] // self.patch_size, self.patch_size
        cut = image.unflatten(2, (side, p)).unflatten(4, (side, p))  # (b, 3, rows, p, columns, p)
        patches = cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        shapes = torch.tensor([[side, side]] * len(image))
        return self.network(patches, pixel_attention_mask=None, spatial_shapes=shapes).last_hidden_state


# A configuration of a complete model without a part for its vision tower, as older files have it.
_OF_MODEL = {"clip": "clip_vision_model", "siglip": "siglip_vision_model", "siglip2": "siglip2_vision_model"}


def _shortened(values: dict[str, Any], config: VisionConfig, folder: Path) -> dict[str, Any]:
    """The tower's configuration with the blocks that are needed, and without its pooling head."""
    depth = values.get("num_hidden_layers", 12)
    if not isinstance(depth, int) or not 1 <= depth <= MAX_DEPTH:
        raise VisionError(
            f"vision.model: {folder / MODEL_CONFIG} has {depth!r} blocks; it must be 1 to {MAX_DEPTH}"
        )
    if config.block is not None and not 1 <= config.block <= depth:
        raise VisionError(f"vision.block: {folder} has blocks 1 to {depth}, not {config.block}")
    needed = {"num_hidden_layers": config.block or depth, "vision_use_head": False, "dtype": "float32"}
    return {key: value for key, value in values.items() if key not in _NOT_NEEDED} | needed


def _patch_size(shape: Any, config: VisionConfig, folder: Path) -> int:
    patch = getattr(shape, "patch_size", None)
    if isinstance(patch, list | tuple) and len({*patch}) == 1:
        patch = patch[0]
    if not isinstance(patch, int) or patch < 1:
        raise VisionError(f"vision.model: {folder} has patches of {patch!r}; only squares are read")
    if config.image_size % patch:
        below = max(1, config.image_size // patch) * patch
        raise VisionError(
            f"vision.image_size: {folder} cuts pictures into squares of {patch} pixels, and {config.image_size} is "
            f"not a multiple of that; choose {below} or {below + patch}"
        )
    return patch
