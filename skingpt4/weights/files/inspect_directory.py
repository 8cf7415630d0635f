"""What a file or directory of weights is, from its headers alone.

`inspect` depends only on what is on the disk. It loads no model, runs no code of a file and reads no numbers, with
one exception of a few kilobytes: the final norm of a Llama, which tells a delta from a model.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from skingpt4.support.parse import ParseError, read_json_object
from skingpt4.weights.files.headers import INDEXES, TensorInfo, UnreadableWeights, read_header
from skingpt4.weights.files.inspect_encoder import vision_folder
from skingpt4.weights.files.inspect_file import (
    hf_blip2_details,
    inspect_file,
    language_model_details,
    projection_fits,
)
from skingpt4.weights.files.inspection import Inspection, gaps

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_BLIP2_PARTS = ("vision_model.", "qformer.", "query_tokens")  # newer files begin with "model."
# A norm's weights start at one and grow in training; the difference of two models' is near zero.
_DELTA_NORM = 0.1


def inspect(path: str | Path) -> Inspection:
    """Say what a file or directory is.

    Raises:
        UnreadableWeights: nothing is there (kind `missing`). Whatever exists gets an inspection, however broken.
    """
    path = Path(path)
    return _inspect_directory(path) if path.is_dir() else inspect_file(path)


def _inspect_directory(path: Path) -> Inspection:
    if (path / "checkpoint.json").is_file():
        return _checkpoint(path)
    checkpoints = sorted(path.glob("checkpoints/[!.]*/checkpoint.json"))
    if checkpoints:
        newest = _checkpoint(checkpoints[-1].parent)
        details = {"checkpoints": len(checkpoints), "newest": str(newest.path), **newest.details}
        return Inspection(path, "run", newest.tensors, details, newest.fits, newest.missing, newest.problem)
    if (path / "adapter_config.json").is_file():
        problem = f"{path}: is a LoRA adapter; merge it into its base model first, or name the base model"
        return Inspection(path, "adapter", details=_read_json(path / "adapter_config.json"), problem=problem)
    if (path / "params.json").is_file() and list(path.glob("consolidated.*.pth")):
        problem = (
            f"{path}: is Llama in Meta's own layout; bring the Hugging Face directory, or convert it with "
            "transformers' script for Llama"
        )
        return Inspection(path, "meta_llama", details=_read_json(path / "params.json"), problem=problem)
    has_config = (path / "config.json").is_file()
    if inspection := vision_folder(path, _read_json(path / "config.json") if has_config else None):
        return inspection
    if has_config:
        return _hugging_face(path)
    if (path / "model.safetensors").is_file():
        return inspect_file(path / "model.safetensors")
    return _unknown(path)


def _unknown(path: Path) -> Inspection:
    files = sorted(p.name for p in path.iterdir())
    listed = f"{', '.join(files[:6])}{', ...' if len(files) > 6 else ''}" if files else "nothing"
    problem = f"{path}: is not a model directory (no config.json, no checkpoint.json); it holds {listed}"
    return Inspection(path, "not_weights", problem=problem)


def _checkpoint(folder: Path) -> Inspection:
    try:
        card = read_json_object(folder / "checkpoint.json")
        header = read_header(folder / "projection.safetensors")
    except UnreadableWeights as error:
        return Inspection(folder, "checkpoint", problem=str(error))
    except (ValueError, OSError) as error:
        return Inspection(folder, "checkpoint", problem=f"{folder / 'checkpoint.json'}: is damaged ({error})")
    language = card.get("language_model")
    language = language if isinstance(language, dict) else {}
    details = {
        "format": card.get("format"),
        "step": card.get("step"),
        "language_model": language.get("name"),
        "family": language.get("family"),
        "template": card.get("template"),
        "encoder": card.get("encoder"),
        "git_revision": card.get("git_revision"),
    }
    fits = ""
    for info in (info for name, info in header.tensors.items() if name.endswith("weight")):
        details["width"], details["query_width"] = info.shape
        fits = projection_fits(*info.shape)
    return Inspection(folder, "checkpoint", header.tensors, details, fits)


def _hugging_face(path: Path) -> Inspection:
    config = _read_json(path / "config.json")
    if not config:
        return Inspection(path, "not_weights", problem=f"{path / 'config.json'}: is damaged, get it again")
    tensors, missing, problems = _all_tensors(path)
    if "qformer_config" in config or config.get("model_type") in ("blip-2", "instructblip"):
        return _hf_blip2(path, config, tensors, missing, problems)
    text = config.get("text_config") or config
    details = {
        "family": config.get("model_type"),
        "width": text.get("hidden_size", text.get("n_embd")),
        "num_layers": text.get("num_hidden_layers", text.get("n_layer")),
        "vocabulary": text.get("vocab_size"),
        "dtype": config.get("dtype", config.get("torch_dtype")),
        "context": text.get("max_position_embeddings"),
    }
    if not any((path / name).is_file() for name in _TOKENIZERS):
        missing.append("the tokenizer (tokenizer.json or tokenizer.model)")
    missing += _missing_tensors(tensors, details) if not missing else []
    stored = language_model_details(tensors)
    problem = problems[0] if problems else None
    if stored and not problem:
        for key, stored_key in (("width", "width"), ("vocabulary", "embedding_rows")):
            if details[key] not in (None, stored[stored_key]):
                problem = (
                    f"{path}: config.json says {key} {details[key]}, its tensors say {stored[stored_key]}; "
                    "the files are of two models"
                )
    kind, fits = "language_model", f"language.model={path}"
    evidence = delta_evidence(path, config, tensors)
    if evidence:
        kind, details["delta_evidence"] = "vicuna_delta", evidence
        problem = problem or (
            f"{path}: is a Vicuna delta ({'; '.join(evidence)}), so as a model it would talk nonsense; merge it "
            "with its LLaMA first: skingpt4 delta --help"
        )
        fits = ""
    return Inspection(path, kind, tensors, details, fits, tuple(missing), problem)


def _hf_blip2(
    path: Path,
    config: dict[str, Any],
    tensors: dict[str, TensorInfo],
    missing: list[str],
    problems: list[str],
) -> Inspection:
    """Only the shards with the image side are needed, so those of the language model may be missing."""
    index = _index(path)
    needed = {file for name, file in index.items() if name.removeprefix("model.").startswith(_BLIP2_PARTS)}
    missing = [name for name in missing if name in needed] if index else missing
    for part in _BLIP2_PARTS:
        if not any(n.removeprefix("model.").startswith(part) for n in tensors) and not missing:
            missing.append(f"{part}*")
    details = {"family": config.get("model_type"), **hf_blip2_details(tensors)}
    details["language_model"] = (config.get("text_config") or {}).get("model_type")
    fits = "vision.weights and qformer.weights"
    return Inspection(
        path, "hf_blip2", tensors, details, fits, tuple(missing), problems[0] if problems else None
    )


def _all_tensors(path: Path) -> tuple[dict[str, TensorInfo], list[str], list[str]]:
    """(tensors of all files, files that the index names and that are missing, files that cannot be read)."""
    index = _index(path)
    files = sorted(set(index.values())) or sorted(p.name for p in path.glob("*.safetensors"))
    files = files or sorted(p.name for p in path.glob("pytorch_model*.bin"))
    tensors: dict[str, TensorInfo] = {}
    problems = []
    for name in files:
        if (path / name).is_file():
            try:
                tensors |= read_header(path / name).tensors
            except UnreadableWeights as error:
                problems.append(str(error))
    missing = [name for name in files if not (path / name).is_file()] if files else ["model.safetensors"]
    return tensors, missing, problems


def _index(path: Path) -> dict[str, str]:
    """Tensor to file, from the index of a sharded model; empty where there is none."""
    for name in INDEXES:
        weight_map = _read_json(path / name).get("weight_map")
        if isinstance(weight_map, dict):
            return weight_map
    return {}


def _missing_tensors(tensors: dict[str, TensorInfo], details: dict[str, Any]) -> list[str]:
    pattern = r"((?:model\.layers|transformer\.h|gpt_neox\.layers))\.(\d+)\.(.+)"
    missing = gaps((name for name in tensors if "rotary_emb" not in name), pattern)
    layers = {int(match[2]) for name in tensors if (match := re.fullmatch(pattern, name))}
    expected = details["num_layers"]
    if layers and isinstance(expected, int) and max(layers) + 1 < expected:
        missing.append(f"layers {max(layers) + 1} to {expected - 1}")
    return missing


def delta_evidence(path: Path, config: dict[str, Any], tensors: dict[str, TensorInfo]) -> list[str]:
    """Why a Llama directory looks like a delta; empty if nothing says so.

    The shapes are those of a complete model, so a header alone cannot tell. Three things can: the name, the README,
    and the one tensor that is read here, the final norm.
    """
    if config.get("model_type") != "llama":
        return []
    evidence = []
    names = (path.resolve().name, str(config.get("_name_or_path", "")))
    if any("delta" in name.lower() for name in names):
        evidence.append("its name says delta")
    readme = path / "README.md"
    if readme.is_file() and re.search(
        r"delta (model|weights)|weights? delta", readme.read_text(encoding="utf-8", errors="replace"), re.I
    ):
        evidence.append("its README says delta")
    mean = _final_norm_mean(path, tensors)
    if mean is not None and mean < _DELTA_NORM:
        evidence.append(f"its final norm is {mean:.3f} on average, near zero as in a difference")
    elif mean is not None:  # a model, whatever it is called
        return []
    return evidence


def _final_norm_mean(path: Path, tensors: dict[str, TensorInfo]) -> float | None:
    """Mean absolute value of `model.norm.weight`, the only numbers that are read; None where it is missing."""
    name = "model.norm.weight"
    if name not in tensors:
        return None
    index = _index(path)
    candidates = [index[name]] if name in index else [p.name for p in path.glob("*") if p.is_file()]
    for file in candidates:
        target = path / file
        if target.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(target, framework="pt") as opened:
                if name in opened.keys():  # noqa: SIM118 - not a dict
                    return opened.get_tensor(name).float().abs().mean().item()
        elif target.suffix == ".bin":
            import torch

            state = torch.load(target, map_location="cpu", weights_only=True, mmap=True)
            if name in state:
                return state[name].float().abs().mean().item()
    return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except (OSError, ParseError):
        return {}
