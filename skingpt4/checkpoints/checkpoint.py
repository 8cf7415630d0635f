"""Checkpoints: the trainable tensors (safetensors) and a small JSON that says what they belong to."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from skingpt4.checkpoints import minigpt4
from skingpt4.checkpoints.card import problem
from skingpt4.config.bundled import BUNDLED, resolve_bundled
from skingpt4.support.errors import UserError, reason_of
from skingpt4.support.files import file_sha256, sync
from skingpt4.support.parse import ParseError, read_json_object
from skingpt4.weights.files.tensors import load_tensors

TENSORS, CARD, STATE = "projection.safetensors", "checkpoint.json", "training_state.pt"
LORA = "lora.safetensors"  # only where the card has `lora`
SEEN = "seen.safetensors"  # hashes of the images it was trained on; only where the card has `seen_sha256`
FORMAT = 1


class CheckpointError(UserError):
    """A checkpoint that is missing or does not fit; the message says what differs."""


def language_identity(model: Any, tokenizer: Any, name: str) -> dict[str, Any]:
    """What a projection depends on in a language model: family, sizes and vocabulary."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items())).encode()
    return {
        "name": name,
        "family": model.config.model_type,
        "width": model.get_input_embeddings().weight.shape[1],
        "num_layers": getattr(model.config, "num_hidden_layers", None),
        "vocabulary": hashlib.sha256(vocabulary).hexdigest()[:16],
    }


def save(
    folder: Path,
    tensors: dict[str, Tensor],
    card: dict[str, Any],
    state: dict[str, Any] | None = None,
    lora: Mapping[str, Tensor] | None = None,
    seen: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint folder, completely or not at all, also after a power cut.

    Args:
        folder: where to write it; replaced if it exists.
        tensors: the projection's tensors by name.
        card: JSON-able description; `format` and `tensors_sha256` (and those of the other files) are added.
        state: optimiser state for resuming, or None.
        lora: the tensors of LoRA on the language model, if it has any.
        seen: hashes of the training images (see skingpt4/records/comparing/overlap.py), for an evaluation elsewhere.

    Raises:
        OSError: it cannot be written, for instance because the disk is full.
    """
    with _new_folder(folder.with_name(f".{folder.name}.part")) as part:
        _write(tensors, part / TENSORS)
        card = {"format": FORMAT, **card, "tensors_sha256": file_sha256(part / TENSORS)}
        if state is not None:
            with _as_os_error(part / STATE):
                torch.save(state, part / STATE)
            card["state_sha256"] = file_sha256(part / STATE)
        if lora:
            _write(lora, part / LORA)
            card["lora_sha256"] = file_sha256(part / LORA)
        if seen:
            _write(seen, part / SEEN)
            card["seen_sha256"] = file_sha256(part / SEEN)
        (part / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        for path in (*part.iterdir(), part):
            sync(path)
    if folder.exists():  # the old one is moved first, so that a killed process leaves at least one of them
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
        os.replace(part, folder)
        sync(folder.parent)
        shutil.rmtree(old)
    else:
        os.replace(part, folder)
        sync(folder.parent)
    return folder


@contextmanager
def _new_folder(part: Path) -> Iterator[Path]:
    """An empty folder to write to, which is removed if that fails."""
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


@contextmanager
def _as_os_error(path: Path) -> Iterator[None]:
    """Torch and safetensors raise errors of their own where a disk is full."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        raise OSError(f"{path}: cannot be written ({error})") from error


def _write(tensors: Mapping[str, Tensor], path: Path) -> None:
    on_cpu = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with _as_os_error(path):
        save_file(on_cpu, path)


def find(path: str | Path) -> Path:
    """The checkpoint that a path means: itself, the newest of a run's `checkpoints/`, or a MiniGPT-4 `.pth`.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(path)
    if (path / CARD).is_file() or is_minigpt4(path):
        return path
    checkpoints = saved(path)
    if not checkpoints and not path.exists():
        how = "bring it (docs/weights.md)" if path.suffix in minigpt4.SUFFIXES else "train it first"
        raise CheckpointError(f"{path}: is not there; {how}, or name the folder with {CARD}")
    if not checkpoints:
        raise CheckpointError(f"{path}: holds no checkpoint; train it first, or name the folder with {CARD}")
    return checkpoints[-1]


def is_minigpt4(path: str | Path) -> bool:
    """Whether a path is a file in MiniGPT-4's layout, by its suffix, and not a folder of ours."""
    return Path(path).is_file() and Path(path).suffix in minigpt4.SUFFIXES


def saved(run_folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first; the remains of a killed save are ignored."""
    return [card.parent for card in sorted(run_folder.glob(f"checkpoints/[!.]*/{CARD}"))]


def load(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, card) of a checkpoint, its checksum verified; of a MiniGPT-4 `.pth` the card has no identity.

    Raises:
        CheckpointError: missing, damaged, or of another format.
        WeightsMismatch: a `.pth` without a projection.
    """
    folder = find(path)
    if is_minigpt4(folder):
        return minigpt4.read(folder)
    try:
        card = read_json_object(folder / CARD)
    except (OSError, ParseError) as error:
        raise CheckpointError(f"{folder / CARD}: is damaged ({reason_of(error)})") from None
    if card.get("format") != FORMAT:
        raise CheckpointError(f"{folder}: has format {card.get('format')}, this software reads {FORMAT}")
    if wrong := problem(card):
        raise CheckpointError(
            f"{folder / CARD}: is not a checkpoint's description ({wrong!r} is missing or wrong)"
        )
    return _verified(folder / TENSORS, card["tensors_sha256"]), card


def load_lora(path: str | Path, card: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of LoRA that a checkpoint holds, their checksum verified; empty where it has none.

    Raises:
        CheckpointError, WeightsMismatch: damaged or missing.
    """
    return _verified(find(path) / LORA, card.get("lora_sha256")) if card.get("lora") else {}


def load_seen(path: str | Path, card: dict[str, Any]) -> dict[str, Tensor]:
    """Hashes of the images that a checkpoint was trained on; empty where it has none.

    Raises:
        CheckpointError, WeightsMismatch: damaged or missing.
    """
    return _verified(find(path) / SEEN, card["seen_sha256"]) if card.get("seen_sha256") else {}


def training_manifests(card: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The manifests that a checkpoint, the one it began from, and so on, were trained on.

    It ends before a bundled one: that was trained on drawings, which show no patient and no case.

    Returns:
        Their paths, and sentences on what cannot be known of them.
    """
    manifests, unknown, hashes = list[str](), list[str](), set[str]()
    while True:
        data = card.get("config", {}).get("data")
        named = (data.get("train") if isinstance(data, dict) else None) or []
        manifests += map(str, named)
        if not named:
            unknown.append("a checkpoint does not name its manifests")
        hashes.add(card.get("tensors_sha256", ""))
        parent = card.get("parent")
        if not parent or parent["tensors_sha256"] in hashes:
            return manifests, unknown
        try:
            card = load(resolve_bundled(str(parent.get("path", ""))))[1]
        except (UserError, ValueError):  # it is not there, or damaged, or its path is none
            card = {}
        if card.get("tensors_sha256") != parent["tensors_sha256"]:
            return manifests, [*unknown, "the checkpoint that it began from does not exist"]
        if str(parent["path"]).startswith(BUNDLED):
            return manifests, unknown


def load_state(path: str | Path, card: dict[str, Any]) -> dict[str, Any]:
    """The `state` that a checkpoint was saved with, on the CPU; cards before 0.2 have no checksum of it.

    Raises:
        CheckpointError: damaged or missing.
    """
    file = find(path) / STATE
    if not file.is_file():
        raise CheckpointError(f"{file}: is missing")
    if "state_sha256" in card:
        _require_sha256(file, card["state_sha256"])
    try:
        # To the CPU: torch.load does not know accelerate's device `cpu:0`, and the optimiser moves its state itself.
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError):
        raise CheckpointError(f"{file}: is damaged") from None
    return state


def _verified(path: Path, sha256: str | None) -> dict[str, Tensor]:
    tensors = load_tensors(path)
    _require_sha256(path, sha256)
    return tensors


def _require_sha256(path: Path, sha256: str | None) -> None:
    if file_sha256(path) != sha256:
        raise CheckpointError(f"{path}: its checksum is not the one in {CARD}; it was changed or damaged")


def require_fit(card: dict[str, Any], identity: dict[str, Any], where: str | Path) -> None:
    """Refuse a checkpoint made with another projector, encoder, language model or prompt template.

    Args:
        card: the checkpoint's own.
        identity: of this run, with the keys `projector`, `encoder`, `language_model`, `template`.
        where: the checkpoint's path, for the message.

    Raises:
        CheckpointError: names everything that differs.
    """
    if "projector" in identity:
        here, theirs = identity["projector"], card.get("projector", {"kind": "qformer"})
        if here | theirs != here:
            raise CheckpointError(
                f"checkpoint {where} was trained with {_projector(theirs)}, and this run has {_projector(here)}; set "
                "projector, pooling and vision.crops as they were, or start from another checkpoint"
            )
    differences = []
    for key, here in identity.items():
        if key == "projector":
            continue
        theirs = card.get(key)
        if key == "language_model" and isinstance(theirs, dict):  # its path does not matter
            theirs, here = ({k: v for k, v in d.items() if k != "name"} for d in (theirs, here))
        if theirs != here:
            differences.append(f"its {key} is {theirs}, here it is {here}")
    if differences:
        raise CheckpointError(f"checkpoint {where} does not fit this run: {'; '.join(differences)}")


def _projector(identity: Mapping[str, Any]) -> str:
    text = f"projector {identity.get('kind')}"
    if "vectors" not in identity:
        return text
    crops = f" in {identity['crops']} crops" if identity.get("crops", 1) > 1 else ""
    return f"{text} ({identity['vectors']} vectors of {identity.get('width')} a picture{crops})"


def set_aside(folder: Path) -> None:
    """Hide a damaged checkpoint from `saved`, under a name beginning with a dot; nothing in it is deleted."""
    hidden = folder.with_name(f".{folder.name}.damaged")
    shutil.rmtree(hidden, ignore_errors=True)
    os.replace(folder, hidden)


def prune(run_folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints of a run."""
    for old in saved(run_folder)[:-keep]:
        shutil.rmtree(old)


def git_revision() -> str | None:
    """The commit of the source tree, followed by '+changes' if it is not clean; None outside a checkout.

    Measurements and evaluations in `results/` are no source: writing one leaves the tree clean for the next.
    """

    def git(*args: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "-uall", "--", ":/", ":(top,exclude)*/results/*")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
