"""What a vision model's folder or file is: open_clip, timm and transformers, and PanDerm's state dict."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from skingpt4.support.parse import ParseError, read_json_object
from skingpt4.weights.files.headers import INDEXES, TensorInfo, UnreadableWeights, read_header
from skingpt4.weights.files.inspection import Inspection, gaps
from skingpt4.weights.files.layouts import beit_prefix

# Of transformers: models that are used for their vision tower alone, by their model_type.
VISION_TYPES = (
    "clip", "clip_vision_model", "siglip", "siglip_vision_model", "siglip2", "siglip2_vision_model", "dinov2",
    "dinov2_with_registers", "dinov3_vit",
)  # fmt: skip
OPEN_CLIP_CONFIG = "open_clip_config.json"
_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_PATCHES = re.compile(
    r"(?P<tower>(?:.*\.)?)(conv1|patch_embed\.proj|embeddings\.patch_embedding|"
    r"embeddings\.patch_embeddings\.projection|embeddings\.patch_embeddings)\.weight$"
)
_LAYER = r"(.*?(?:resblocks|blocks|layers|layer))\.(\d+)\.(.+)"


def vision_folder(path: Path, config: dict[str, Any] | None = None) -> Inspection | None:
    """What a folder is if it is a vision model's; None if it is not.

    Args:
        path: the folder.
        config: what its config.json holds, if it has one.
    """
    files = {file.name for file in path.iterdir()}
    config = config or {}
    if OPEN_CLIP_CONFIG in files and (files & {*_OPEN_CLIP_FILES} or not config):
        return _open_clip(path)
    if "architecture" in config and "model_type" not in config:
        details = {"library": "timm", "family": config["architecture"]}
        return _inspection(path, "timm_folder", details, _SINGLE_FILES)
    if config.get("model_type") not in VISION_TYPES:
        return None
    details = {"library": "transformers", "family": config["model_type"]}
    inspection = _inspection(path, "hf_vision", details, _SINGLE_FILES)
    if files & {*_PROCESSORS}:
        return inspection
    missing = (*inspection.missing, _PROCESSORS[0])
    return Inspection(
        path,
        inspection.kind,
        inspection.tensors,
        inspection.details,
        inspection.fits,
        missing,
        inspection.problem,
    )


def _open_clip(path: Path) -> Inspection:
    details: dict[str, Any] = {"library": "open_clip"}
    try:
        model = read_json_object(path / OPEN_CLIP_CONFIG).get("model_cfg")
        tower = model.get("vision_cfg") if isinstance(model, dict) else None
        if not isinstance(tower, dict):
            raise ParseError("no model_cfg with a vision_cfg")
    except (OSError, ParseError) as error:
        problem = f"{path / OPEN_CLIP_CONFIG}: is damaged ({error}); get it again"
        return Inspection(path, "open_clip", details=details, problem=problem)
    details |= {"family": tower.get("timm_model_name", "vit"), "image_size": tower.get("image_size")}
    return _inspection(path, "open_clip", details, _OPEN_CLIP_FILES)


def _inspection(path: Path, kind: str, details: dict[str, Any], names: tuple[str, ...]) -> Inspection:
    """From the headers of the first of these files that is there, or of all that an index names."""
    fits = f"vision.model={path}"
    files = [name for name in names if (path / name).is_file()][:1]
    if not files and (path / INDEXES[0]).is_file():
        try:
            weight_map = read_json_object(path / INDEXES[0]).get("weight_map")
        except (OSError, ParseError):
            weight_map = None
        files = sorted({*map(str, weight_map.values())}) if isinstance(weight_map, dict) else []
    missing = [name for name in files if not (path / name).is_file()] if files else [names[0]]
    tensors: dict[str, TensorInfo] = {}
    try:
        for name in files:
            if name not in missing:
                tensors |= read_header(path / name).tensors
    except UnreadableWeights as error:
        return Inspection(path, kind, details=details, fits=fits, problem=str(error))
    if not missing:
        found, lacks = tower_details(tensors)
        details, missing = {**details, **found}, lacks
        if not found and kind != "timm_folder":
            problem = f"{path}: its weights hold no vision tower, so they are of a text model"
            return Inspection(path, kind, tensors, details, "", problem=problem)
    return Inspection(path, kind, tensors, details, fits, tuple(missing))


def tower_details(tensors: dict[str, TensorInfo]) -> tuple[dict[str, Any], list[str]]:
    """(width, depth and patch size of the vision transformer among these tensors, tensors that a layer lacks)."""
    for name, info in tensors.items():
        match = _PATCHES.match(name)
        if match and len(info.shape) in (2, 4):
            prefix = match["tower"]
            inside = [other.removeprefix(prefix) for other in tensors if other.startswith(prefix)]
            layers = {int(layer[2]) for other in inside if (layer := re.fullmatch(_LAYER, other))}
            details: dict[str, Any] = {"width": info.shape[0], "num_layers": len(layers)}
            if len(info.shape) == 4:
                details["patch_size"] = info.shape[-1]
            return details, [f"{prefix}{lacking}" for lacking in gaps(inside, _LAYER)]
    return {}, []


def panderm_file(path: Path, tensors: dict[str, TensorInfo]) -> Inspection:
    """PanDerm's state dict: BEiT's names with layer scale and absolute positions."""
    prefix = beit_prefix(tensors) or ""
    inside = {name: info for name, info in tensors.items() if name.startswith(prefix)}
    details, missing = tower_details(inside)
    missing += [
        f"{prefix}{name}" for name in ("pos_embed", "norm.weight") if f"{prefix}{name}" not in tensors
    ]
    details = {"family": "panderm (CAE v2)", **details}
    return Inspection(path, "panderm", tensors, details, f"vision.model={path}", tuple(missing))


def open_clip_file(path: Path, tensors: dict[str, TensorInfo]) -> Inspection:
    """The weights of an open_clip model without its folder."""
    details, missing = tower_details({name: i for name, i in tensors.items() if name.startswith("visual.")})
    problem = (
        f"{path}: is open_clip's weights alone; name its folder in vision.model, with {OPEN_CLIP_CONFIG}"
    )
    return Inspection(path, "open_clip", tensors, details, missing=tuple(missing), problem=problem)
