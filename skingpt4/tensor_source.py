"""Weights of any size, one tensor at a time: shapes from headers, values memory-mapped and read when asked.

A published checkpoint is opened, compared with the module by name and shape, and only then read, each tensor
straight to its place. The module itself is built without memory, so that host memory never holds more than the
weights and one tensor.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor, nn

from skingpt4.headers import Header, UnreadableWeights, read_header
from skingpt4.pth import safetensors_of
from skingpt4.tensors import WeightsMismatch, read_pth, require_same_tensors

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
