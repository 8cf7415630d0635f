"""Weights of any size, one tensor at a time: shapes from headers, values memory-mapped and read when asked.

A published checkpoint is opened, compared with the module by name and shape, and only then read, each tensor
straight to its place. The module itself is built without memory, so that host memory never holds more than the
weights and one tensor.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import init_empty_weights
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from skingpt4.weights.files.headers import Header, UnreadableWeights, read_header
from skingpt4.weights.files.tensors import WeightsMismatch, read_pth, require_same_tensors

INDEX = "model.safetensors.index.json"
# A tensor's name in the file, and what is done with it. The second is also asked of a meta tensor, for the shape.
Recipe = tuple[str, Callable[[Tensor], Tensor]]


def unchanged(tensor: Tensor) -> Tensor:
    """A recipe that takes the tensor as it is."""
    return tensor


@dataclass(frozen=True)
class TensorSource:
    """Tensors by name: `header` holds them on the meta device, `read` gives one, memory-mapped.

    `files` are those that the header was read from.
    """

    path: Path
    header: dict[str, Tensor]
    read: Callable[[str], Tensor]
    files: tuple[Path, ...]

    def __fspath__(self) -> str:
        """The path, so that an opened source can stand where a path does."""
        return str(self.path)


def header_source(path: str | Path, prefixes: tuple[str, ...] = ("",)) -> TensorSource:
    """A source whose tensors have no values: loading it onto the meta device compares names and shapes alone.

    Nothing is converted, and neither time nor memory grows with the tensors.

    Raises:
        UnreadableWeights, WeightsMismatch: missing, truncated, a pickle with code in it, or no weights.
    """
    path = Path(path)
    if path.is_dir():
        source = open_source(path, prefixes)
        return replace(source, read=source.header.__getitem__)
    tensors = {
        name: torch.empty(info.shape, dtype=getattr(torch, info.dtype), device="meta")
        for name, info in read_header(path).tensors.items()
    }
    return TensorSource(path, tensors, tensors.__getitem__, (path,))


def open_source(path: str | Path | TensorSource, prefixes: tuple[str, ...] = ("",)) -> TensorSource:
    """Open a `.safetensors`, a `.pth` (through its safetensors twin), or a Hugging Face directory.

    Args:
        path: the file or directory; a source that is open already is given back.
        prefixes: of a directory, only tensors whose names begin so, and only the shards that hold them.

    Raises:
        WeightsMismatch: missing, truncated, a pickle with code in it, or a shard that is not there.
    """
    if isinstance(path, TensorSource):
        return path
    path = Path(path)
    files = source_files(path, prefixes)
    if path.is_dir():
        return _open_shards(path, files, prefixes)
    if path.suffix == ".safetensors":
        return _open_shards(path, [path], ("",))
    twin = safetensors_of(path)
    if twin:
        return replace(_open_shards(path, [twin], ("",)), files=(path,))
    held = read_pth(path)
    header = {name: value.to("meta") for name, value in held.items()}
    return TensorSource(path, header, held.__getitem__, (path,))


def source_files(path: str | Path, prefixes: tuple[str, ...] = ("",)) -> list[Path]:
    """The file itself, or the safetensors of a Hugging Face directory that hold tensors of these prefixes.

    Raises:
        WeightsMismatch: the file, or one of the shards, is not there.
    """
    folder = Path(path)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise WeightsMismatch(f"{folder}: no such file of weights")
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    if not (folder / INDEX).is_file():
        pickled = any(folder.glob("pytorch_model*.bin*"))
        why = (
            "only pickled .bin weights; fetch its safetensors"
            if pickled
            else f"no {single.name} and no {INDEX}"
        )
        raise WeightsMismatch(f"{folder}: holds {why}")
    try:
        weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        names = sorted({str(shard) for name, shard in weight_map.items() if name.startswith(prefixes)})
    except (ValueError, KeyError, AttributeError, TypeError):
        raise WeightsMismatch(f"{folder / INDEX}: is damaged; fetch it anew") from None
    gone = [name for name in names if not (folder / name).is_file()]
    if gone:
        raise WeightsMismatch(f"{folder}: its index names {gone[0]}, which is not there; fetch it too")
    return [folder / name for name in names]


def _open_shards(path: Path, shards: list[Path], prefixes: tuple[str, ...]) -> TensorSource:
    header: dict[str, Tensor] = {}
    shard_of: dict[str, Path] = {}
    for shard in shards:
        for name, info in _header(shard).tensors.items():
            if name.startswith(prefixes):
                dtype = getattr(torch, info.dtype)
                header[name] = torch.empty(info.shape, dtype=dtype, device="meta")
                shard_of[name] = shard

    def read(name: str) -> Tensor:
        # Opened for each tensor: closing unmaps its pages, which would else count as memory used.
        with safe_open(shard_of[name], "pt") as file:
            return file.get_tensor(name)

    return TensorSource(path, header, read, tuple(shards))


def _header(path: Path) -> Header:
    try:
        return read_header(path)
    except UnreadableWeights as error:
        raise WeightsMismatch(str(error)) from None


M = TypeVar("M", bound=nn.Module)


def built_without_memory(build: Callable[[], M]) -> M:
    """A module whose parameters are on the meta device; buffers are real, for no file may hold them.

    Few modules compute buffers from their parameters; those are built with memory.
    """
    try:
        with init_empty_weights(include_buffers=False):
            module = build()
    except NotImplementedError:
        return build()
    return build() if any(b.is_meta for b in module.buffers()) else module


def load_into(
    module: nn.Module,
    source: TensorSource,
    recipes: Mapping[str, Recipe],
    what: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    left_out: tuple[str, ...] = (),
) -> None:
    """Load a module strictly, each tensor straight to its device and dtype; nothing is changed on a mismatch.

    Args:
        module: best one that was `built_without_memory`.
        source: the weights.
        recipes: for each tensor of the module its name in the source and what is done with it.
        what: the module's name in a message.
        device: where all parameters and buffers will be.
        dtype: of the floating-point ones; None keeps each one's own.
        left_out: prefixes of tensors that the source need not have; on meta, their modules are initialised.

    Raises:
        WeightsMismatch: names what is missing, unexpected or of another shape.
    """
    all_wanted = module.state_dict()
    wanted = {n: t for n, t in all_wanted.items() if n in recipes or not n.startswith(left_out or ("\0",))}
    offered = {name: transform(source.header[key]) for name, (key, transform) in recipes.items()}
    require_same_tensors(offered, wanted, str(source.path), what)
    for name in wanted:
        key, transform = recipes[name]
        _place(module, name, transform(source.read(key)), device, dtype)
    for part in module.modules() if torch.device(device).type != "meta" else ():
        if any(p.is_meta for p in part.parameters(recurse=False)):
            part.to_empty(device=device, recurse=False)
            part.reset_parameters()  # type: ignore[operator]
    module.to(device=device, dtype=dtype)


def _place(
    module: nn.Module, name: str, value: Tensor, device: torch.device | str, dtype: torch.dtype | None
) -> None:
    """Replace one parameter or buffer by a copy of `value`."""
    owner_name, _, leaf = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    old = getattr(owner, leaf)
    own = dtype if dtype is not None and old.is_floating_point() else old.dtype
    value = value.detach().to(device=device, dtype=own, copy=True).contiguous()
    if isinstance(old, nn.Parameter):
        setattr(owner, leaf, nn.Parameter(value, requires_grad=old.requires_grad))
    else:
        setattr(owner, leaf, value)


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
