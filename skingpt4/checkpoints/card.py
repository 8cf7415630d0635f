"""The JSON card of a checkpoint: the types that its values have, and the one list of what may leave this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Required

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from skingpt4.checkpoints.diseases import shareable
from skingpt4.config.bundled import portable
from skingpt4.config.load import to_dict
from skingpt4.config.schema import Config
from skingpt4.config.vision_files import HUB, place
from skingpt4.weights.names import is_local


class KnownAnswer(TypedDict):
    """See `skingpt4.checkpoints.known_answer`."""

    question: str
    answer: str
    mean_log_probability: float
    queries: list[float]
    dtype: str
    tolerance: float


class Lora(TypedDict):
    """See `skingpt4.model.lora.settings_of`; no other keys, since they become a `LoraConfig`."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    rank: int
    alpha: float
    dropout: float
    targets: list[str]


class Language(TypedDict, total=False):
    """See `skingpt4.checkpoints.checkpoint.language_identity`."""

    name: str
    family: str
    width: int
    num_layers: int | None
    vocabulary: str


class Projector(TypedDict, total=False):
    """The way from a picture to vectors; cards before 0.3 are all of the Q-Former."""

    kind: str
    vectors: int
    width: int
    crops: int


class Parent(TypedDict, total=False):
    """The checkpoint that a run began from."""

    step: str
    iteration: int
    tensors_sha256: Required[str]


# See `skingpt4.checkpoints.diseases`.
TaughtDisease = TypedDict("TaughtDisease", {"disease": str, "class": str | None, "records": int})


class Source(TypedDict):
    """See `skingpt4.checkpoints.sources`."""

    source: str | None
    licence: str | None
    records: int


class Card(TypedDict, total=False):
    """The values that are read; cards of older versions lack some of them."""

    format: int
    tensors_sha256: str
    lora_sha256: str
    seen_sha256: str
    state_sha256: str
    config: dict[str, Any]
    step: str
    iteration: int
    num_trainable: int
    encoder: str
    projector: Projector
    parts: dict[str, dict[str, int | bool]]
    language_model: Language
    template: str
    lora: Lora | None
    known_answer: KnownAnswer | None
    parent: Parent | None
    data_sha256: str | None
    git_revision: str | None
    versions: dict[str, str]
    demonstration: bool
    diseases: list[TaughtDisease]
    num_diseases_left_out: int
    sources: list[Source]


_CARD = TypeAdapter(Card)


def problem(card: dict[str, Any]) -> str | None:
    """The name of the first value that is missing or of a wrong type; None where all are right."""
    if "tensors_sha256" not in card:
        return "tensors_sha256"
    try:
        _CARD.validate_python(card, strict=True)
    except ValidationError as error:
        return ".".join(map(str, error.errors()[0]["loc"]))
    return None


# ---- what may leave this machine

# Everything that is not listed stays here: run and data folders, placement on devices, optimiser state.
SHARED_VALUES = (
    "format", "tensors_sha256", "lora_sha256", "seen_sha256", "step", "iteration", "num_trainable", "encoder",
    "template", "lora", "data_sha256", "git_revision", "versions", "projector", "parts",
)  # fmt: skip
SHARED_KEYS = (
    "step", "compat", "seed", "vision", "qformer", "encoder.backend", "encoder.dtype", "language.model",
    "language.dtype", "language.attention", "language.quantization", "lora", "prompt", "data.max_text_tokens",
    "data.augment", "data.sampling", "optim", "projector", "pooling", "projection", "freeze",
)  # fmt: skip
KNOWN_ANSWER_VALUES = (*KnownAnswer.__annotations__, "num_tokens", "device")


def public_card(card: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """The part of a card that may be published, and its configuration as `public_config` has it."""
    shared = {key: card[key] for key in SHARED_VALUES if key in card}
    language = {
        key: card["language_model"][key] for key in Language.__annotations__ if key in card["language_model"]
    }
    public = public_config(config)
    shared["language_model"] = language | {"name": public.language.model}
    for key, allowed in (("known_answer", KNOWN_ANSWER_VALUES), ("parent", tuple(Parent.__annotations__))):
        values = card.get(key)
        shared[key] = values and {name: values[name] for name in allowed if name in values}
    if "diseases" in card:
        shared["diseases"] = shareable(card["diseases"])
        shared["num_diseases_left_out"] = (
            card.get("num_diseases_left_out", 0) + len(card["diseases"]) - len(shared["diseases"])
        )
    shared["demonstration"] = is_demonstration(card)
    return {**shared, "config": to_dict(public)}


def public_config(config: Config) -> Config:
    """A configuration with what `SHARED_KEYS` lists, the defaults for the rest, and public paths."""
    config = portable(config)
    shared = Config(step=config.step, output_dir="runs/shared")
    for name in SHARED_KEYS:
        group, _, key = name.rpartition(".")
        source, target = (getattr(each, group) if group else each for each in (config, shared))
        setattr(target, key, getattr(source, key))
    for group in ("vision", "qformer"):
        part = getattr(config, group)
        setattr(shared, group, replace(part, weights=part.weights and public_path(part.weights)))
    if shared.vision.model and not shared.vision.model.startswith(HUB) and place(shared.vision.model):
        shared.vision.model = public_path(shared.vision.model)
    if is_local(shared.language.model):
        shared.language.model = public_path(shared.language.model)
    return shared


def public_path(path: str) -> str:
    """A path without this machine's folders: relative in the working folder, else its last part under weights/."""
    relative = os.path.relpath(path)
    return f"weights/{Path(path).name}" if relative.startswith("..") else Path(relative).as_posix()


def is_demonstration(card: Mapping[str, Any]) -> bool:
    """Whether a checkpoint, or one before it, was trained on rendered phantoms: its answers have no clinical meaning.

    The records' source says so, wherever their manifest lies; a card without sources has the manifest's path alone.
    """
    data = card.get("config", {}).get("data")
    train = data.get("train") if isinstance(data, dict) else None
    return (
        bool(card.get("demonstration"))
        or any(row["source"] == "phantoms" for row in card.get("sources") or [])
        or any("phantoms" in str(path) for path in train or [])
    )
