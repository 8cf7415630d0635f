"""What a vision model's own files say: where it is, which library wrote it, and how it wants its images.

`vision.model` is a timm name, a folder or a file, or `hf-hub:ORG/NAME`. Of all but a timm name the image size, mean,
standard deviation, interpolation, block and the file of the weights are read here, from small JSON files; no library
of models is needed, and nothing is downloaded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skingpt4.config.rules import INTERPOLATIONS
from skingpt4.support.errors import UserError, reason_of
from skingpt4.support.parse import ParseError, read_json_object

HUB = "hf-hub:"
WEIGHTS_DIR = Path("weights")  # where `skingpt4 weights fetch` puts what it fetches
OPEN_CLIP, TRANSFORMERS, TIMM, STATE_DICT = "open_clip", "transformers", "timm", "state_dict"
OPEN_CLIP_CONFIG, MODEL_CONFIG = "open_clip_config.json", "config.json"
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_WEIGHTS = {  # of a folder, by preference; a sharded model is named by its folder
    OPEN_CLIP: ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    TRANSFORMERS: ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"),
    TIMM: ("model.safetensors", "pytorch_model.bin"),
}
_PILLOW = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
}  # Pillow's numbers in preprocessor_config.json
_OPENAI = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])  # open_clip's defaults


class VisionFilesError(UserError):
    """A vision model's own files that cannot be read; the message names the file and what is wrong."""


def place(model: str) -> Path | None:
    """The folder or file that `vision.model` names, which may be missing; None for a timm name.

    `hf-hub:ORG/NAME` stands for the folder to which `skingpt4 weights fetch` brings it.
    """
    if model.startswith(HUB):
        return WEIGHTS_DIR / hub_folder(model)
    if "/" in model or model.endswith(_SUFFIXES) or (model and os.path.isdir(model)):
        return Path(model)
    return None


def hub_folder(model: str) -> str:
    """The folder's name of `hf-hub:ORG/NAME`: the name in lower case, as in the catalogue."""
    return model.rpartition("/")[2].lower()


def kind(folder: Path) -> str:
    """Which library's files these are: open_clip, transformers, timm, or a bare state dict.

    Raises:
        VisionFilesError: nothing is there, or no library's configuration.
    """
    if os.path.isfile(folder):
        return STATE_DICT
    if not os.path.isdir(folder):
        raise VisionFilesError(f"vision.model: {folder} is not there")
    try:
        names = {*os.listdir(folder)}
    except OSError as error:
        raise VisionFilesError(f"vision.model: {folder} cannot be read ({reason_of(error)})") from None
    # Some folders hold the same model for two libraries; the one whose weights are there counts.
    if OPEN_CLIP_CONFIG in names and (names & {*_WEIGHTS[OPEN_CLIP]} or MODEL_CONFIG not in names):
        return OPEN_CLIP
    if MODEL_CONFIG not in names:
        raise VisionFilesError(
            f"vision.model: {folder} holds neither {OPEN_CLIP_CONFIG} (open_clip) nor {MODEL_CONFIG} (timm, "
            "transformers); name the model's folder, or fetch these files too"
        )
    return TIMM if "architecture" in read_json(folder / MODEL_CONFIG) else TRANSFORMERS


def read_json(path: Path) -> dict[str, Any]:
    """The object in one of a model's JSON files.

    Raises:
        VisionFilesError: missing, or damaged.
    """
    try:
        return read_json_object(path)
    except FileNotFoundError:
        raise VisionFilesError(f"vision.model: {path} is not there; fetch it too") from None
    except OSError as error:
        raise VisionFilesError(f"vision.model: {path} cannot be read ({reason_of(error)})") from None
    except ParseError as error:
        raise VisionFilesError(f"vision.model: {path} is damaged ({error}); get it again") from None


def weights_file(folder: Path) -> Path:
    """The file of a model's weights, or its folder where they are in several; where none is there, the usual name."""
    if not os.path.isdir(folder):
        return folder
    candidates = _WEIGHTS[kind(folder)]
    name = next((name for name in candidates if (folder / name).is_file()), candidates[0])
    return folder if name.endswith(".index.json") else folder / name


def description_files(model: str) -> list[Path]:
    """The JSON files beside the weights that decide what the network computes; they belong to its identity."""
    folder = place(model)
    if folder is None or not os.path.isdir(folder):
        return []
    return [folder / (OPEN_CLIP_CONFIG if kind(folder) == OPEN_CLIP else MODEL_CONFIG)]


def vision_config_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a transformers configuration that describes its vision tower: itself, where it has no parts."""
    part = config.get("vision_config")
    return part if isinstance(part, dict) else config


def own_values(model: str) -> dict[str, Any]:
    """Values of the group `vision` as a model's own files give them, only those that are there.

    Keys: weights, image_size, mean, std, interpolation, block, norm. Empty for a timm name.

    Raises:
        VisionFilesError: a file is damaged, or asks for something that there is not.
    """
    folder = place(model)
    if folder is None or not os.path.exists(folder):
        return {} if folder is None else {"weights": str(folder)}
    _require_repository(model, folder)
    readers = {OPEN_CLIP: _open_clip, TIMM: _timm, TRANSFORMERS: _transformers}
    reader = readers.get(kind(folder))
    values = reader(folder) if reader else {}
    return _checked({**values, "weights": str(weights_file(folder))}, folder)


def completed(vision: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the group `vision`, where what is null or missing comes from the model's own files.

    Raises:
        VisionFilesError: as `own_values`.
    """
    result = dict(vision)
    own = own_values(str(vision.get("model", "")))
    result |= {key: value for key, value in own.items() if result.get(key) is None}
    return {
        key: value
        for key, value in result.items()
        if value is not None or key not in ("model_args", "image_size", "interpolation", "norm")
    }  # what is left out has the schema's default


def _require_repository(model: str, folder: Path) -> None:
    """Refuse a folder that was fetched from another repository of the same name."""
    if model.startswith(HUB) and (folder / "source.json").is_file():
        repo = read_json(folder / "source.json").get("repo")
        if repo not in (None, model.removeprefix(HUB)):
            raise VisionFilesError(
                f"vision.model: {folder} was fetched from {repo}, not from {model.removeprefix(HUB)}; name the "
                "folder of the one that you mean"
            )


def _open_clip(folder: Path) -> dict[str, Any]:
    config = read_json(folder / OPEN_CLIP_CONFIG)
    steps, model = _part(config, "preprocess_cfg"), _part(config, "model_cfg")
    return {
        "image_size": _part(model, "vision_cfg").get("image_size") or steps.get("size") or 224,
        "mean": steps.get("mean", _OPENAI[0]),
        "std": steps.get("std", _OPENAI[1]),
        "interpolation": steps.get("interpolation", "bicubic"),
    }


def _timm(folder: Path) -> dict[str, Any]:
    config = read_json(folder / MODEL_CONFIG)
    values = _part(config, "pretrained_cfg") or config  # older files have no such part
    size = values.get("input_size")
    return {
        "image_size": size[-1] if isinstance(size, list) and size else None,
        **{key: values.get(key) for key in ("mean", "std", "interpolation")},
    }


def _transformers(folder: Path) -> dict[str, Any]:
    config = read_json(folder / MODEL_CONFIG)
    tower, steps = vision_config_of(config), _processor(folder)
    sizes = [steps.get("crop_size") if steps.get("do_center_crop", True) else None, steps.get("size")]
    resample, patches = steps.get("resample", 3), steps.get("max_num_patches")
    sides = [*filter(None, map(_side, sizes)), tower.get("image_size")]
    values = {
        "image_size": sides[0],
        "mean": steps.get("image_mean"),
        "std": steps.get("image_std"),
        "interpolation": _PILLOW.get(resample, resample) if isinstance(resample, int) else resample,
    }
    patch = tower.get("patch_size", 16)
    if isinstance(patches, int) and isinstance(patch, int) and patches > 0:
        values["image_size"] = math.isqrt(patches) * patch  # SigLIP 2 of any aspect ratio: its largest square
    # Of LLaVA: the layer whose tokens its projector reads, without the norm.
    layer = config.get("vision_feature_layer")
    if isinstance(layer, int) and isinstance(tower.get("num_hidden_layers"), int):
        values |= {"block": layer if layer > 0 else tower["num_hidden_layers"] + 1 + layer, "norm": False}
    return values


def _processor(folder: Path) -> Mapping[str, Any]:
    """The image processor's values, from either of the two files in which transformers writes them."""
    if (folder / "preprocessor_config.json").is_file():
        return read_json(folder / "preprocessor_config.json")
    if (folder / "processor_config.json").is_file():
        return _part(read_json(folder / "processor_config.json"), "image_processor")
    return {}


def _part(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = values.get(key)
    return part if isinstance(part, dict) else {}


def _side(size: Any) -> int | None:
    """The side of a square in one of transformers' spellings."""
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    return size if isinstance(size, int) else None


def _checked(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    size = values.get("image_size")
    if isinstance(size, list) and len({*size}) == 1:
        values["image_size"] = size = size[0]
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise VisionFilesError(
            f"vision.model: {folder} is for images of {size!r} pixels; only squares are encoded, so set "
            "vision.image_size to the side of one"
        )
    for key in ("mean", "std"):
        number = values.get(key)
        if number is not None and not (
            isinstance(number, list) and len(number) == 3 and all(isinstance(n, int | float) for n in number)
        ):
            raise VisionFilesError(
                f"vision.model: {folder} gives {key} {number!r} in place of three numbers; set vision.{key}"
            )
    name = values.get("interpolation")
    if name == "random":  # of training in timm and open_clip
        values["interpolation"] = name = "bicubic"
    if name is not None and name not in INTERPOLATIONS:
        raise VisionFilesError(
            f"vision.model: {folder} asks for interpolation {name!r}; set vision.interpolation to one of "
            f"{', '.join(INTERPOLATIONS)}"
        )
    return values
