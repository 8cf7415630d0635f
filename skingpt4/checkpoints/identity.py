"""What a projection was trained with: hashes for checkpoints, names for banners and exports."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.card import is_demonstration
from skingpt4.config.compat import BEHAVIOURS
from skingpt4.config.schema import Config
from skingpt4.config.vision_files import description_files, place
from skingpt4.model.network import SkinGPT4
from skingpt4.model.projection import picture_shape
from skingpt4.support.files import file_sha256
from skingpt4.weights.files.layouts import NORM_NAMES, QFORMER_PREFIXES, VISION_PREFIXES, brings_norm
from skingpt4.weights.files.source import source_files

DEMONSTRATION = "Demonstration: trained on computer-drawn pictures. Its answers have no clinical meaning."
UNTRAINED = "Untrained projection: the answers have nothing to do with the picture."
UNKNOWN = "Projection in MiniGPT-4's layout: the file does not say what it was trained on."


def model_identity(config: Config, checkpoint_path: str | Path | None) -> dict[str, Any]:
    """What is loaded, for banners and exports: names and hashes, without paths outside the working folder.

    Returns:
        checkpoint, sha256 (of its tensors), step, iteration, trained_on (manifests), demonstration (trained on
        rendered phantoms), language_model, template, and caution: a sentence, empty for a trained model.

    Raises:
        CheckpointError: missing or damaged.
    """
    facts: dict[str, Any] = {
        "checkpoint": "no checkpoint", "sha256": None, "step": None, "iteration": None, "trained_on": [],
        "demonstration": False, "caution": UNTRAINED,
        "language_model": os.path.basename(os.path.normpath(config.language.model)),
        "template": BEHAVIOURS[config.compat].chat_template or config.prompt.template,
    }  # fmt: skip
    if checkpoint_path is None:
        return facts
    card = checkpoint.load(checkpoint_path)[1]
    if "config" not in card:  # MiniGPT-4's layout records nothing
        return facts | {"checkpoint": _named(checkpoint_path), "caution": UNKNOWN}
    data = card["config"].get("data")
    trained_on = [_named(str(path)) for path in data.get("train") or []] if isinstance(data, dict) else []
    demonstration = is_demonstration(card)
    return facts | {
        "checkpoint": _named(checkpoint.find(checkpoint_path), 3),
        "sha256": card.get("tensors_sha256"),
        "step": card.get("step"),
        "iteration": card.get("iteration"),
        "trained_on": trained_on,
        "demonstration": demonstration,
        "caution": DEMONSTRATION if demonstration else "",
    }


def _named(path: str | Path, parts: int = 2) -> str:
    """A path as exports show it: relative inside the working folder, elsewhere its last parts."""
    relative = os.path.relpath(path)
    return "/".join(Path(path).parts[-parts:]) if relative.startswith("..") else Path(relative).as_posix()


def encoder_files(config: Config) -> list[Path]:
    """Every file that the encoder's weights are read from."""
    qformer = config.qformer.weights
    if config.projector != "qformer" and qformer and not brings_norm(qformer):
        qformer = None
    sources = ((config.vision.weights, VISION_PREFIXES), (qformer, QFORMER_PREFIXES + NORM_NAMES))
    return [file for weights, prefixes in sources if weights for file in source_files(weights, prefixes)]


def encoder_identity(config: Config) -> str:
    """16 hex digits that change whenever the encoder, its weights or the image transform do.

    They do not depend on `encoder.backend`: both backends give the same queries within 1e-5 (docs/parity.md), less
    than half precision changes them, so a projection or cached features of one serve the other.
    """
    has_qformer = config.projector == "qformer"
    parts: dict[str, Any] = {
        "vision": asdict(config.vision),
        **({"qformer": asdict(config.qformer)} if has_qformer else {"pooling": asdict(config.pooling)}),
        "files": [file_sha256(file) for file in encoder_files(config)],
    }
    if place(config.vision.model) is not None:  # what its files say counts, not where they are
        del parts["vision"]["model"]
        parts["description"] = [file_sha256(file) for file in description_files(config.vision.model)]
    for group in parts.keys() & {"vision", "qformer"}:
        del parts[group]["weights"]  # the content counts, not the path
    if config.vision.crops == 1:
        del parts["vision"]["crops"]  # which version 0.2 did not have
    if config.vision.interpolation == "bicubic":
        del parts["vision"]["interpolation"]  # the only one that earlier versions had
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def projector_identity(config: Config) -> dict[str, Any]:
    """What a card says of the way from a picture to vectors."""
    shape = picture_shape(config)
    return {
        "kind": config.projector,
        "vectors": shape.num_vectors,
        "width": shape.width,
        "crops": config.vision.crops,
    }


def identity(config: Config, model: SkinGPT4) -> dict[str, Any]:
    """What a projection depends on, as a checkpoint stores it: projector, encoder, language model, template."""
    lm = model.language_model
    return {
        "projector": projector_identity(config),
        "encoder": encoder_identity(config),
        "language_model": checkpoint.language_identity(lm.model, lm.tokenizer, config.language.model),
        "template": config.prompt.template,
    }
