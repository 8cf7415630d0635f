"""A trained projection as a Hugging Face repository: a folder with what was trained and what it belongs to.

The frozen parts are named, not copied: by their identity and their path or hub id. The folder is also an ordinary
checkpoint, so it can be given wherever a checkpoint can.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, Template
from timm.models import get_pretrained_cfg

from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.card import public_card, public_config
from skingpt4.config.bundled import BUNDLED, resolve_bundled
from skingpt4.config.load import from_card, from_dict
from skingpt4.config.schema import Config
from skingpt4.config.vision_files import place
from skingpt4.model.build import empty_encoder
from skingpt4.model.projection import picture_shape
from skingpt4.model.prompts import TOKENIZER_TEMPLATE, get_template
from skingpt4.model.qformer import QFormer
from skingpt4.support.cli import DISCLAIMER
from skingpt4.support.errors import UserError
from skingpt4.support.files import write_text
from skingpt4.support.parse import read_json_object
from skingpt4.weights.files.headers import WeightsMismatch
from skingpt4.weights.files.layouts import NORM_NAMES, QFORMER_PREFIXES, VISION_PREFIXES
from skingpt4.weights.files.source import header_source
from skingpt4.weights.names import LOCAL

CONFIG, PROCESSOR, MODEL_CARD = "config.json", "preprocessor_config.json", "README.md"
MODEL_CARD_TEMPLATE = Path(__file__).with_name("model_card.md.j2")
SHARED_FILES = (
    checkpoint.TENSORS,
    checkpoint.LORA,
    checkpoint.SEEN,
)  # of a checkpoint; `card` lists its values
PARTS = {"vision": "the vision encoder", "qformer": "the Q-Former"}  # the frozen parts that may be included
DOWNLOADED = ["*.json", "*.safetensors", "*.pth", MODEL_CARD]


class HubError(UserError):
    """A repository that cannot be written or read; the message says why."""


def write_folder(
    checkpoint_path: str | Path,
    folder: str | Path,
    name: str,
    licence: str = "apache-2.0",
    include: Sequence[str] = (),
) -> Path:
    """Write a checkpoint as a repository folder, complete or not at all.

    Args:
        checkpoint_path: a checkpoint or a run's folder.
        folder: must not exist, or be empty.
        name: of the model, for its card.
        licence: of what was trained, as the hub spells it.
        include: the frozen parts to copy into it, of `PARTS`.

    Raises:
        HubError: the folder holds something or cannot be written, or the file of a part to include is not that part.
        CheckpointError: no such checkpoint, or a damaged one.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise HubError(f"{folder}: is not empty; name another folder")
    _, card = checkpoint.load(checkpoint_path)
    if "config" not in card:
        raise HubError(f"{checkpoint_path}: does not know its configuration, so others could not load it")
    checkpoint.load_lora(checkpoint_path, card)  # their checksums
    checkpoint.load_seen(checkpoint_path, card)
    source = checkpoint.find(checkpoint_path)
    config = from_dict(card["config"], str(source))
    staging = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        for file in SHARED_FILES:
            if (source / file).is_file():
                shutil.copyfile(source / file, staging / file)
        for key in include:
            _include_part(config, key, staging)
        described = public_card(card, config)
        public = public_config(config)
        write_text(staging / checkpoint.CARD, json.dumps(described, indent=1) + "\n")
        description = {
            "model_type": "skingpt4",
            "architectures": ["SkinGPT4"],
            "frozen_parts": _frozen_parts(public, described, include),
            "config": described["config"],
        }
        write_text(staging / CONFIG, json.dumps(description, indent=1) + "\n")
        write_text(staging / PROCESSOR, json.dumps(_processor(public), indent=1) + "\n")
        write_text(
            staging / MODEL_CARD,
            model_card(name, licence, public, described, include, len(config.data.train)),
        )
        if folder.exists():
            folder.rmdir()
        os.replace(staging, folder)
    except OSError as error:
        raise HubError(
            f"{folder}: cannot be written ({error.strerror or error}); check the free space and the rights there"
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # moved by now, unless something failed
    return folder


def _include_part(config: Config, key: str, folder: Path) -> None:
    """Copy a part's file byte for byte, so that its identity stays the same."""
    path = getattr(config, key).weights
    if key == "vision" and place(config.vision.model) is not None:
        raise HubError(
            f"vision.model: {config.vision.model} is a folder or file of another library, which is not included; "
            "leave the part out, and whoever loads this fetches it from its authors"
        )
    if not path or not Path(path).is_file():
        raise HubError(
            f"{key}.weights: {path or 'no file'} cannot be included; leave it out or fetch it first"
        )
    _require_part(config, key, Path(path))
    shutil.copyfile(path, folder / f"{key}{Path(path).suffix}")
    setattr(config, key, replace(getattr(config, key), weights=f"{key}{Path(path).suffix}"))


def _require_part(config: Config, key: str, path: Path) -> None:
    """Refuse a file that is not the part: a checkpoint of somebody else's may name any file of this machine.

    Raises:
        HubError: it is elsewhere, or does not hold the part's tensors.
    """
    known = [os.path.abspath(place) for place in (".", resolve_bundled(BUNDLED))]
    if not any(os.path.commonpath([place, os.path.abspath(path)]) == place for place in known):
        raise HubError(
            f"{key}.weights: {path} is not included, since it is outside the working folder ({known[0]}); if it "
            "is yours to share, run this from a folder that holds it, or leave the part out"
        )
    try:
        vision, reads = empty_encoder(config)
        if key == "vision":
            vision.load(header_source(path, VISION_PREFIXES), "meta")
        elif isinstance(reads, QFormer):
            reads.load(header_source(path, QFORMER_PREFIXES), "meta")
        else:
            vision.load_ln_vision(header_source(path, NORM_NAMES), "meta")
    except WeightsMismatch as error:
        raise HubError(
            f"{key}.weights: {path} is not included, since it is not {PARTS[key]} ({error})"
        ) from None


def _frozen_parts(config: Config, card: dict[str, Any], include: Sequence[str]) -> dict[str, Any]:
    return {
        "encoder": {
            "identity": card["encoder"],
            "vision": {"model": config.vision.model, "weights": config.vision.weights},
            "qformer": {"weights": config.qformer.weights},
            "in_this_folder": list(include),
        },
        "language_model": card["language_model"],
    }


def _processor(config: Config) -> dict[str, Any]:
    # Counts where the configuration gives no values; that of a folder has them.
    timm_config = None if place(config.vision.model) else get_pretrained_cfg(config.vision.model)
    template = get_template(config.prompt.template)
    return {
        "processor_class": "skingpt4",
        "image": {
            "size": config.vision.image_size,
            "resample": f"{config.vision.interpolation}, aspect ratio not kept",
            "rescale": "1/255",
            "mean": list(config.vision.mean or (timm_config.mean if timm_config else [])),
            "std": list(config.vision.std or (timm_config.std if timm_config else [])),
        },
        "num_query_tokens": picture_shape(config).num_vectors,
        "prompt": {
            "name": config.prompt.template,
            "text": TOKENIZER_TEMPLATE if template is None else vars(template),
            "questions": config.prompt.questions,
        },
        "tokenizer": config.language.model,
    }


def model_card(
    name: str, licence: str, config: Config, card: dict[str, Any], include: Sequence[str], num_manifests: int
) -> str:
    """README.md of the repository: YAML metadata, use, limits, data, figures of the training, licence."""
    metadata: dict[str, Any] = {
        "license": licence,
        "language": ["en"],
        "library_name": "skingpt4",
        "pipeline_tag": "image-text-to-text",
        "tags": ["dermatology", "research", "not-a-medical-device", "skingpt4"],
    }
    if not config.language.model.startswith(LOCAL):
        metadata["base_model"] = config.language.model
    # Checkpoints of older versions lack these.
    optional = dict.fromkeys(("lora", "known_answer", "data_sha256", "git_revision", "parent"))
    template = Template(MODEL_CARD_TEMPLATE.read_text(encoding="utf-8"), undefined=StrictUndefined)
    text = template.render(
        name=name,
        licence=licence,
        config=config,
        picture=picture_shape(config),
        card={**optional, "versions": {}, **card},
        metadata=yaml.safe_dump(metadata, sort_keys=False).strip(),
        included=[PARTS[key] for key in include],
        num_manifests=num_manifests,
        disclaimer=DISCLAIMER,
    )
    return f"{text}\n"


def resolve(name: str | Path, revision: str | None = None) -> Path:
    """The folder that a path or a hub id names; a repository of the hub is downloaded once.

    Raises:
        HubError: neither a folder written by `write_folder` nor a repository that can be fetched.
    """
    folder = Path(name)
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise HubError(f"{folder}: has no {CONFIG}; write it with `skingpt4 share`")
        return folder
    if str(name).startswith(LOCAL) or str(name).count("/") != 1:
        raise HubError(f"{name}: no such folder")
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=DOWNLOADED))
    except errors.GatedRepoError:
        why = "is gated; accept its terms on its page, then log in with `hf auth login`"
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        why = "is not on the hub in this revision, or private; check the name, and `hf auth login` if it is yours"
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        why = "is not in the hub's cache, and the hub cannot be reached or is forbidden (HF_HUB_OFFLINE)"
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        why = f"cannot be fetched from the hub ({str(error).splitlines()[0][:160]}); check the network and the disk"
    raise HubError(f"{name}: {why}")


def renamed_paths(folder: Path, checkpoint_path: str | Path) -> list[tuple[str, str]]:
    """The paths of frozen parts that a written folder names otherwise than its checkpoint does, as (key, name)."""
    theirs = config_of(folder)
    ours = from_dict(checkpoint.load(checkpoint_path)[1]["config"], str(checkpoint_path))
    names = [(f"{key}.weights", getattr(ours, key).weights, getattr(theirs, key).weights) for key in PARTS]
    names.append(("language.model", ours.language.model, theirs.language.model))
    return [(key, new) for key, old, new in names if old != new and not Path(new).exists()]


def is_shared(path: str | Path) -> bool:
    """Whether a path is a folder written by `write_folder`."""
    return (Path(path) / CONFIG).is_file() and (Path(path) / checkpoint.CARD).is_file()


def config_of(folder: Path, language_model: str | None = None) -> Config:
    """The configuration that a folder describes; parts that are included are read from it.

    Args:
        folder: as `resolve` returns it.
        language_model: path or hub id of the language model, if not the one that the folder names.

    Raises:
        HubError: not a folder written by `write_folder`.
        ConfigError: a configuration that this software does not know.
    """
    try:
        description = read_json_object(folder / CONFIG)
        values = dict(description["config"])
        for key in description["frozen_parts"]["encoder"]["in_this_folder"]:
            if key in PARTS:
                values[key]["weights"] = str(folder / Path(values[key]["weights"]).name)
        if language_model:
            values["language"]["model"] = language_model
    except (OSError, ValueError, KeyError, TypeError):
        raise HubError(
            f"{folder / CONFIG}: is not a description of a SkinGPT-4; it needs one written by `skingpt4 share`"
        ) from None
    return from_card(values, str(folder / CONFIG))
