"""Reading and comparing tensor files; what every loader of weights stands on."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from skingpt4.errors import UserError


class WeightsMismatch(UserError):
    """Tensors that do not fit the model; the message names the file and the tensors."""


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a `.safetensors`, or a `.pth`/`.pt` with ``weights_only=True`` (its `model` entry, if it has one).

    Raises:
        WeightsMismatch: the file is missing, truncated, or a pickle that holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsMismatch(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise WeightsMismatch(
            f"{path}: is no file of tensors, or a pickle with code in it; it is not opened"
        ) from None
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise WeightsMismatch(
            f"{path}: cannot be read, perhaps truncated ({type(error).__name__}: {str(error)[:200]})"
        ) from None
    held = held.get("model", held) if isinstance(held, dict) else held
    if not isinstance(held, dict):
        raise WeightsMismatch(f"{path}: holds no tensors by name")
    return {key: value for key, value in held.items() if isinstance(value, Tensor)}


def require_same_tensors(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str, what: str
) -> None:
    """Compare names and shapes.

    Raises:
        WeightsMismatch: names every kind of difference, with the first few tensors of each.
    """
    missing = sorted(wanted.keys() - found.keys())
    unexpected = sorted(found.keys() - wanted.keys())
    shapes = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in sorted(wanted.keys() & found.keys())
        if found[key].shape != wanted[key].shape
    ]
    problems = [
        f"{name} {len(keys)}: {', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''}"
        for name, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    if problems:
        raise WeightsMismatch(f"{where} does not fit this {what}; {'; '.join(problems)}")


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes as hex, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
