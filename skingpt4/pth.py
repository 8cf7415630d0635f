"""The safetensors twin of a `.pth`: converted once, beside the file, and memory-mapped from then on."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from skingpt4.headers import UnreadableWeights, read_header
from skingpt4.tensors import WeightsMismatch, read_pth


def safetensors_of(path: Path) -> Path | None:
    """The safetensors twin of a `.pth`, `NAME.pth.safetensors`, made now if it is missing or out of date.

    The twin's header holds the size and the time of the file it was made from, so a changed `.pth` is
    converted anew. It appears whole or not at all.

    Returns:
        None where there is no room or no right to write beside the file; one line on stderr says so.

    Raises:
        WeightsMismatch: as `read_pth`.
    """
    twin = path.with_name(f"{path.name}.safetensors")
    if _is_made_from(twin, path):
        return twin
    try:
        read_header(path)  # says more clearly than torch what a file is instead
    except UnreadableWeights as error:
        raise WeightsMismatch(str(error)) from None
    tensors = read_pth(path)  # before anything is written: a refusal leaves nothing behind
    part = twin.with_name(f".{twin.name}.part")
    try:
        with FileLock(f"{part}.lock"):  # several processes of one run start at the same time
            try:
                if not _is_made_from(twin, path):
                    _check_space(path, tensors)
                    print(f"converting {path} to {twin.name} once", file=sys.stderr, flush=True)
                    _write(tensors, part, _stamp(path))
                    os.replace(part, twin)
            finally:
                part.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        print(f"{path}: read as it is, {twin.name} cannot be written beside it ({reason})", file=sys.stderr)
        return None
    return twin


def _stamp(path: Path) -> dict[str, str]:
    status = path.stat()
    return {
        "format": "pt",
        "made_from_bytes": str(status.st_size),
        "made_from_mtime_ns": str(status.st_mtime_ns),
    }


def _is_made_from(twin: Path, path: Path) -> bool:
    if not twin.is_file():
        return False
    try:
        with safe_open(twin, "pt") as file:
            return file.metadata() == _stamp(path)
    except (SafetensorError, OSError):
        return False


def _check_space(path: Path, tensors: dict[str, Tensor]) -> None:
    needed = sum(t.numel() * t.element_size() for t in tensors.values()) + (1 << 20)
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise OSError(f"it needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; make room")


def _write(tensors: dict[str, Tensor], part: Path, metadata: dict[str, str]) -> None:
    """Write without a copy in memory; tensors that share a storage are the exception."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        shared = storage.data_ptr() in seen or storage.nbytes() != tensor.numel() * tensor.element_size()
        seen.add(storage.data_ptr())
        apart[name] = tensor.clone(memory_format=torch.contiguous_format) if shared else tensor.contiguous()
    save_file(apart, part, metadata=metadata)
    part.chmod(0o644)  # safetensors are written for the owner alone
