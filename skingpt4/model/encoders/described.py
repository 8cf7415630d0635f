"""Vision encoders that files describe and timm computes: folders of open_clip and timm, and PanDerm's state dict.

Each becomes the arguments of a timm model. The names of the tensors are translated in
`skingpt4.weights.files.layouts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from skingpt4.config.rules import without_weights
from skingpt4.config.schema import VisionConfig
from skingpt4.config.vision_files import (
    MODEL_CONFIG,
    OPEN_CLIP,
    OPEN_CLIP_CONFIG,
    STATE_DICT,
    kind,
    read_json,
    weights_file,
)
from skingpt4.model.encoders.timm_backbone import VisionError
from skingpt4.weights.files.headers import TensorInfo, WeightsMismatch, read_header
from skingpt4.weights.files.layouts import beit_prefix

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HEAD_WIDTH = 64  # of the attention of every published PanDerm
# What open_clip's plain tower may have beyond CLIP's, which timm's has not: each is false, none or 0 in CLIP's.
_NOT_IN_TIMM = (
    "attentional_pool", "no_ln_pre", "norm_kwargs", "act_kwargs", "qk_norm", "scaled_cosine_attn", "scale_heads",
    "scale_attn_inner", "scale_attn", "scale_fc",
)  # fmt: skip


def timm_config(config: VisionConfig, folder: Path) -> VisionConfig:
    """The configuration with the timm model that a folder or file describes in place of its name.

    Args:
        config: whose `model` is this folder or file; its `model_args` win over what is described.
        folder: of open_clip or timm, or PanDerm's file.

    Raises:
        VisionError: a network that timm does not compute.
        VisionFilesError: nothing is there, or a file is damaged.
        WeightsMismatch: PanDerm's file cannot be read.
    """
    library = kind(folder)
    if library == STATE_DICT:
        model, args = _panderm(folder)
        mean, std = config.mean or IMAGENET[0], config.std or IMAGENET[1]
        config = replace(config, mean=mean, std=std)
    elif library == OPEN_CLIP:
        model, args = _open_clip(folder)
    else:
        values = read_json(folder / MODEL_CONFIG)
        model, args = str(values["architecture"]).partition(".")[0], _mapping(values, "model_args")
        args.pop("img_size", None)  # which vision.image_size decides
    if problem := without_weights(args):
        raise VisionError(f"vision.model: {folder} names arguments for timm that are refused: {problem}")
    return replace(config, model=model, model_args={**args, **config.model_args})


def _mapping(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    part = values.get(key)
    return dict(part) if isinstance(part, dict) else {}


def _open_clip(folder: Path) -> tuple[str, dict[str, Any]]:
    """Name and arguments in timm of an open_clip model's vision tower."""
    path = folder / OPEN_CLIP_CONFIG
    model = _mapping(read_json(path), "model_cfg")
    tower = _mapping(model, "vision_cfg")
    if not tower:
        raise VisionError(
            f"vision.model: {path} has no model_cfg with a vision_cfg; it describes no vision tower"
        )
    if name := tower.get("timm_model_name"):
        # As open_clip builds it: only without a projection of its own does the pooling shape the network.
        pool, projection = tower.get("timm_pool", "avg"), tower.get("timm_proj", "linear")
        shapes = projection not in ("linear", "mlp") and pool not in ("abs_attn", "rot_attn")
        return str(name).partition(".")[0], {"global_pool": pool} if shapes else {}
    weights = weights_file(folder)
    if weights.is_file() and (beit_prefix(header := read_header(weights).tensors) is not None):
        return _beit(
            weights, header
        )  # DermLIP's towers out of PanDerm, which open_clip itself does not build
    return "vit_base_patch16_clip_224", _clip_args(tower, bool(model.get("quick_gelu")), path)


def _clip_args(tower: Mapping[str, Any], quick_gelu: bool, path: Path) -> dict[str, Any]:
    """Arguments for timm of open_clip's plain ViT."""
    extra = [key for key in _NOT_IN_TIMM if tower.get(key)]
    if isinstance(tower.get("layers"), list):
        extra.append("layers: a list, so a ResNet")
    if tower.get("block_type") not in (None, "default"):
        extra.append("block_type")
    if extra:
        raise VisionError(
            f"vision.model: {path} describes a vision tower with {', '.join(extra)}; only CLIP's plain ViT and "
            "timm's networks are computed here, so name another model"
        )
    try:
        width, depth = int(tower.get("width", 768)), int(tower.get("layers", 12))
        args: dict[str, Any] = {
            "patch_size": int(tower.get("patch_size", 16)),
            "embed_dim": width,
            "depth": depth,
            "num_heads": width // int(tower.get("head_width", 64)),
            "mlp_ratio": float(tower.get("mlp_ratio", 4.0)),
            "act_layer": "quick_gelu" if quick_gelu else "gelu",
        }
        if tower.get("ls_init_value") is not None:
            args["init_values"] = float(tower["ls_init_value"])
    except (TypeError, ValueError, ZeroDivisionError):
        raise VisionError(
            f"vision.model: {path} has a vision_cfg whose sizes are no numbers; get it again"
        ) from None
    return args


def _panderm(path: Path) -> tuple[str, dict[str, Any]]:
    header = read_header(path).tensors
    if beit_prefix(header) is None:
        raise VisionError(
            f"vision.model: {path} is a file whose names are not PanDerm's, so nothing says which network it is for; "
            "name its folder with the library's configuration, or a timm model and this file in vision.weights"
        )
    return _beit(path, header)


def _beit(path: Path, header: Mapping[str, TensorInfo]) -> tuple[str, dict[str, Any]]:
    """Arguments for timm of PanDerm: CAE v2's ViT, which is BEiT's with absolute positions."""
    prefix = beit_prefix(header) or ""
    if any("relative_position_bias_table" in name for name in header):
        raise VisionError(
            f"vision.model: {path} has relative position biases, which PanDerm has not; name the timm model that it "
            "is for, such as beit_base_patch16_224, and this file in vision.weights"
        )
    shapes = {
        name.removeprefix(prefix): info.shape for name, info in header.items() if name.startswith(prefix)
    }
    try:
        width, _, patch, _ = shapes["patch_embed.proj.weight"]
        hidden = shapes["blocks.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError):
        raise WeightsMismatch(
            f"{path}: lacks patch_embed.proj.weight or blocks.0.mlp.fc1.weight, so it is not a complete PanDerm; get "
            "it again"
        ) from None
    if "norm.weight" not in shapes or "pos_embed" not in shapes:
        raise WeightsMismatch(
            f"{path}: lacks norm.weight or pos_embed, so it is not PanDerm's pretrained encoder"
        )
    depth = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks."))
    return "beit_base_patch16_224", {
        "patch_size": patch,
        "embed_dim": width,
        "depth": depth,
        "num_heads": max(1, width // HEAD_WIDTH),
        "mlp_ratio": hidden / width,
        "use_abs_pos_emb": True,
        "use_rel_pos_bias": False,
        "use_shared_rel_pos_bias": False,
        "init_values": 0.1,  # so that the layers have a scale; its values are in the file
        "global_pool": "token",  # so that the final norm belongs to the tokens
    }
