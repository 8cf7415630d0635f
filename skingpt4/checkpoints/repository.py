"""A trained projection as a Hugging Face repository: a folder with what was trained and what it belongs to.

The frozen parts are named, not copied: by their identity and by where they lay. A folder is also an ordinary
checkpoint, so everything that takes a checkpoint takes it.
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
from timm.models import get_pretrained_cfg

from skingpt4.checkpoints import checkpoint
from skingpt4.config.bundled import portable
from skingpt4.config.load import from_dict
from skingpt4.config.schema import LOCAL, Config
from skingpt4.model.prompts import TOKENIZER_TEMPLATE, get_template
from skingpt4.support.errors import UserError
from skingpt4.support.files import write_text

CONFIG, PROCESSOR, MODEL_CARD = "config.json", "preprocessor_config.json", "README.md"
PARTS = ("vision", "qformer")  # the frozen parts that may be taken along
WANTED = ("*.json", "*.safetensors", "*.pth", MODEL_CARD)
DISCLAIMER = "Research software, not a medical device. Its answers are not a diagnosis; ask a doctor."


class HubError(UserError):
    """A repository that cannot be written or read; the message says why."""


def write_folder(
    checkpoint_path: str | Path,
    folder: str | Path,
    name: str,
    licence: str = "apache-2.0",
    include: Sequence[str] = (),
) -> Path:
    """Write a checkpoint as a repository folder, whole or not at all.

    Args:
        checkpoint_path: a checkpoint or a run's folder.
        folder: where it will stand; must not exist, or be empty.
        name: of the model, for its card.
        licence: of what was trained, as the hub spells it.
        include: frozen parts to copy along, of `PARTS`.

    Raises:
        HubError: the folder holds something or cannot be written, or a part to take along has no file.
        CheckpointError: no such checkpoint, or a damaged one.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise HubError(f"{folder}: is not empty; name another folder")
    _, card = checkpoint.load(checkpoint_path)
    checkpoint.load_lora(checkpoint_path, card)  # its checksum
    source = checkpoint.find(checkpoint_path)
    config = from_dict(card["config"], str(source))
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        for file in (checkpoint.TENSORS, checkpoint.LORA):
            if (source / file).is_file():
                shutil.copyfile(source / file, part / file)
        for key in include:
            _take_along(config, key, part)
        config = portable(config)
        plain = _without_places(card, include)
        write_text(part / checkpoint.CARD, json.dumps(plain, indent=1) + "\n")
        described = {
            "model_type": "skingpt4",
            "architectures": ["SkinGPT4"],
            "frozen_parts": _frozen_parts(config, card, include),
            "config": plain["config"],
        }
        write_text(part / CONFIG, json.dumps(described, indent=1) + "\n")
        write_text(part / PROCESSOR, json.dumps(_processor(config), indent=1) + "\n")
        write_text(part / MODEL_CARD, model_card(name, licence, config, card, include))
        if folder.exists():
            folder.rmdir()
        os.replace(part, folder)
    except OSError as error:
        raise HubError(
            f"{folder}: cannot be written ({error.strerror or error}); check the free space and the rights there"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)  # moved by now, unless something went wrong
    return folder


def _take_along(config: Config, key: str, part: Path) -> None:
    """Copy a part's file byte for byte, so that its identity stays the same."""
    path = getattr(config, key).weights
    if not path or not Path(path).is_file():
        raise HubError(
            f"{key}.weights: {path or 'no file'} cannot be taken along; leave it out or fetch it first"
        )
    shutil.copyfile(path, part / f"{key}{Path(path).suffix}")
    setattr(config, key, replace(getattr(config, key), weights=f"{key}{Path(path).suffix}"))


def _without_places(card: dict[str, Any], include: Sequence[str]) -> dict[str, Any]:
    """The card without where its data and its run lay; parts that are taken along stand in the folder."""
    config = json.loads(json.dumps(card["config"]))
    for key in include:
        config[key]["weights"] = f"{key}{Path(config[key]['weights']).suffix}"
    config["output_dir"] = "runs/shared"
    config["initial_checkpoint"] = None
    data = {**config["data"], "train": [], "validation": [], "feature_cache": None}
    parent = card.get("parent") and {k: v for k, v in card["parent"].items() if k != "path"}
    return {**card, "parent": parent, "config": {**config, "data": data}}


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
    own = get_pretrained_cfg(config.vision.model)  # timm's, which hold where the configuration gives none
    template = get_template(config.prompt.template)
    return {
        "processor_class": "skingpt4",
        "image": {
            "size": config.vision.image_size,
            "resample": "bicubic, aspect ratio not kept",
            "rescale": "1/255",
            "mean": list(config.vision.mean or (own.mean if own else [])),
            "std": list(config.vision.std or (own.std if own else [])),
        },
        "num_query_tokens": config.qformer.num_query_tokens,
        "prompt": {
            "name": config.prompt.template,
            "text": TOKENIZER_TEMPLATE if template is None else vars(template),
            "questions": config.prompt.questions,
        },
        "tokenizer": config.language.model,
    }


def model_card(name: str, licence: str, config: Config, card: dict[str, Any], include: Sequence[str]) -> str:
    """README.md of the repository: YAML metadata, use, limits, data, figures of the training, licence."""
    base = config.language.model
    meta: dict[str, Any] = {
        "license": licence,
        "language": ["en"],
        "library_name": "skingpt4",
        "pipeline_tag": "image-text-to-text",
        "tags": ["dermatology", "research", "not-a-medical-device", "skingpt4"],
    }
    if not base.startswith(LOCAL):
        meta["base_model"] = base
    family = card["language_model"]
    branches = card.get("lora")
    optim = config.optim
    trained = f"one linear layer, {config.qformer.width} to {family['width']}"
    if branches:
        trained += f", and LoRA of rank {branches['rank']} on {', '.join(branches['targets'])}"
    own = {"vision": "the vision encoder", "qformer": "the Q-Former"}
    along = " and ".join(own[key] for key in include) or "none of them"
    answer = card.get("known_answer")
    stored = f"{answer['mean_log_probability']} nats a token ({answer['dtype']})" if answer else "not stored"
    return f"""---
{yaml.safe_dump(meta, sort_keys=False).strip()}
---
# {name}

> **{DISCLAIMER}**

A SkinGPT-4 (arXiv 2304.10691): a frozen image encoder, a trained projection, a frozen language model. This folder
holds what was trained: {trained}, {card["num_trainable"]:,} numbers.

## Use
```python
from skingpt4 import from_pretrained

model = from_pretrained("THIS_REPOSITORY")  # or the path of this folder
```
or `skingpt4 chat --checkpoint FOLDER --image picture.jpg`.

## Frozen parts it belongs to
Copied into this folder: {along}. Loading refuses any other than these.

| part | which | identity |
|---|---|---|
| vision encoder | {config.vision.model}, `{config.vision.weights}` | {card["encoder"]} (with the Q-Former) |
| Q-Former | {config.qformer.num_query_tokens} queries of {config.qformer.width}, `{config.qformer.weights}` | |
| language model | `{base}`: {family["family"]}, {family["num_layers"]} layers of {family["width"]} | \
vocabulary {family["vocabulary"]} |
| prompt template | {config.prompt.template} | |

## Intended use
Research on how image and language models describe pictures of skin. Not for diagnosis, triage, treatment or any
other decision about a patient.

## Limits
- Language models invent; an answer may be fluent and wrong.
- It was not examined on patients, nor by skin type, unless a report that comes with it says so.
- It fits no other encoder, language model or template.

## Data
{len(config.data.train)} manifest(s), hash {card.get("data_sha256")}. The pictures are not part of this repository.
Whoever shares it adds here where they come from and under which terms.

## Training
| | |
|---|---|
| step | {card["step"]}, iteration {card["iteration"]} |
| parent | {_parent(card)} |
| optimiser | AdamW, {optim.init_lr:g} to {optim.min_lr:g} after {optim.warmup_steps} iterations of warm-up |
| batch | {optim.batch_size} x {optim.accumulation} |
| seed | {config.seed} |
| known answer | {stored} |
| software | revision {card.get("git_revision")}, {_versions(card)} |

## Licence
What was trained: {licence}. The frozen parts keep the licences of their publishers.
"""


def _parent(card: dict[str, Any]) -> str:
    parent = card.get("parent")
    return (
        f"{parent.get('step')}, iteration {parent.get('iteration')}" if parent else "an untrained projection"
    )


def _versions(card: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in card.get("versions", {}).items())


def resolve(name: str | Path, revision: str | None = None) -> Path:
    """The folder that a path or a hub id means; a hub id is downloaded through huggingface_hub, once.

    Raises:
        HubError: neither a folder of ours nor a repository that can be fetched.
    """
    folder = Path(name)
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise HubError(f"{folder}: holds no {CONFIG}; write it with skingpt4 share")
        return folder
    if str(name).startswith(LOCAL) or str(name).count("/") != 1:
        raise HubError(f"{name}: no such folder")
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=list(WANTED)))
    except errors.GatedRepoError:
        why = "is gated; accept its terms on its page, then log in with `hf auth login`"
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        why = "is not on the hub in this revision, or private; check the name, and `hf auth login` if it is yours"
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        why = "is not in the hub's cache, and the hub cannot be reached or is forbidden (HF_HUB_OFFLINE)"
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        why = f"cannot be fetched from the hub ({str(error).splitlines()[0][:160]}); check the network and the disk"
    raise HubError(f"{name}: {why}")


def places_of(folder: Path) -> list[str]:
    """Absolute paths of this machine that a written folder names: frozen parts that were configured so."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["config"]
    named = (config["vision"]["weights"], config["qformer"]["weights"], config["language"]["model"])
    return [path for path in named if path and Path(path).is_absolute()]


def is_shared(path: str | Path) -> bool:
    """Whether a path is a folder written by `write_folder`."""
    return (Path(path) / CONFIG).is_file() and (Path(path) / checkpoint.CARD).is_file()


def config_of(folder: Path, language_model: str | None = None) -> Config:
    """The configuration that a folder describes; parts that it holds are read from it.

    Args:
        folder: as `resolve` gives it.
        language_model: where the language model lies here, if not where it lay when the folder was written.

    Raises:
        HubError: no folder of ours.
        ConfigError: a configuration that this software does not know.
    """
    try:
        described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        values, along = described["config"], described["frozen_parts"]["encoder"]["in_this_folder"]
    except (OSError, ValueError, KeyError, TypeError):
        raise HubError(
            f"{folder / CONFIG}: is no description of a SkinGPT-4; it needs one written by skingpt4 share"
        ) from None
    for key in along:
        if key in PARTS:
            values[key]["weights"] = str(folder / Path(values[key]["weights"]).name)
    if language_model:
        values["language"]["model"] = language_model
    return from_dict(values, str(folder / CONFIG))
