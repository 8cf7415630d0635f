"""Reading and comparing tensor files, for every loader of weights."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from skingpt4.weights.files.headers import WeightsMismatch, state_dict_in


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a complete `.safetensors`, or a `.pth`/`.pt` as `read_pth` does.

    Raises:
        WeightsMismatch: the file is missing, truncated, or a pickle that holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsMismatch(f"{path}: no such file of weights")
    if path.suffix != ".safetensors":
        return read_pth(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from None


def read_pth(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.pth` by name (of its `model` or `state_dict`, if any), memory-mapped where it is a zip.

    Only tensors are read, with ``weights_only=True``: no code in the file is ever run.

    Raises:
        WeightsMismatch: truncated, no tensors by name, or a pickle that holds more than tensors.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise WeightsMismatch(
            f"{path}: is not a file of tensors, or a pickle with code in it; it is not opened"
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        raise _unreadable(path, error) from None
    tensors = {key: value for key, value in state_dict_in(content)[1].items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsMismatch(f"{path}: holds no tensors by name")
    return tensors


def _unreadable(path: Path, error: Exception) -> WeightsMismatch:
    return WeightsMismatch(
        f"{path}: cannot be read, perhaps truncated ({type(error).__name__}: {str(error)[:200]}); fetch it again"
    )


def require_same_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str, what: str
) -> None:
    """Compare names and shapes of `tensors`, from the file `where`, with those of the module `what`.

    Raises:
        WeightsMismatch: names every kind of difference, with the first few tensors of each.
    """
    missing = sorted(expected.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - expected.keys())
    shapes = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & tensors.keys())
        if tensors[key].shape != expected[key].shape
    ]
    problems = [
        f"{name} {len(keys)}: {', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''}"
        for name, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    if problems:
        sentence = f"{where} does not fit this {what}; {'; '.join(problems)}"
        raise WeightsMismatch(sentence, missing, unexpected, shapes)
