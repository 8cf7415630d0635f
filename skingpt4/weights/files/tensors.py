"""Reading and comparing tensor files; what every loader of weights stands on."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from skingpt4.support.errors import UserError
from skingpt4.weights.files.headers import state_dict_in


class WeightsMismatch(UserError):
    """Weights that cannot be read or do not fit the model; the message names the file and the tensors.

    `missing`, `unexpected` and `of_another_shape` hold every name; the message shows the first few.
    """

    def __init__(
        self,
        message: str,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        of_another_shape: Sequence[str] = (),
    ) -> None:
        """Keep the names beside the message."""
        super().__init__(message)
        self.missing, self.unexpected, self.of_another_shape = missing, unexpected, of_another_shape


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a whole `.safetensors`, or a `.pth`/`.pt` as `read_pth` does.

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
        raise unreadable(path, error) from None


def read_pth(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.pth` by name (of its `model` or `state_dict`, if any), memory-mapped where it is a zip.

    Only tensors are read, with ``weights_only=True``: no code in the file is ever run.

    Raises:
        WeightsMismatch: truncated, no tensors by name, or a pickle that holds more than tensors.
    """
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise WeightsMismatch(
            f"{path}: is no file of tensors, or a pickle with code in it; it is not opened"
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        raise unreadable(path, error) from None
    tensors = {key: value for key, value in state_dict_in(held)[1].items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsMismatch(f"{path}: holds no tensors by name")
    return tensors


def unreadable(path: Path, error: Exception) -> WeightsMismatch:
    """The refusal of a file that a library could not read."""
    return WeightsMismatch(
        f"{path}: cannot be read, perhaps truncated ({type(error).__name__}: {str(error)[:200]}); fetch it anew"
    )


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
        sentence = f"{where} does not fit this {what}; {'; '.join(problems)}"
        raise WeightsMismatch(sentence, missing, unexpected, shapes)
