"""Weights of any size, one tensor at a time: shapes from headers, values memory-mapped and read when needed.

A published checkpoint is opened, compared with the module by name and shape, and only then read, each tensor
directly to its device. The module itself is built without memory, so that host memory never holds more than the
weights and one tensor.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from skingpt4.support.errors import reason_of
from skingpt4.support.files import move_into_place
from skingpt4.weights.files.headers import INDEXES, WeightsMismatch, read_header, read_index
from skingpt4.weights.files.tensors import read_pth, require_same_tensors

logger = logging.getLogger(__name__)

INDEX = INDEXES[0]  # of safetensors
# A tensor's name in the file, and how it is transformed; a meta tensor is transformed too, for its shape.
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
    """A source whose tensors have no values: loading it onto the meta device only compares names and shapes.

    Nothing is converted, and neither time nor memory grows with the tensors.

    Raises:
        WeightsMismatch: missing, truncated, a pickle with code in it, or no weights.
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
        path: the file or directory; a source that is open already is returned.
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
    tensors = read_pth(path)
    header = {name: value.to("meta") for name, value in tensors.items()}
    return TensorSource(path, header, tensors.__getitem__, (path,))


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
    shard_of = read_index(folder / INDEX)
    names = sorted({shard for tensor, shard in shard_of.items() if tensor.startswith(prefixes)})
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise WeightsMismatch(f"{folder}: its index names {missing[0]}, which is not there; fetch it too")
    return [folder / name for name in names]


def _open_shards(path: Path, shards: list[Path], prefixes: tuple[str, ...]) -> TensorSource:
    header: dict[str, Tensor] = {}
    shard_of: dict[str, Path] = {}
    for shard in shards:
        for name, info in read_header(shard).tensors.items():
            if name.startswith(prefixes):
                dtype = getattr(torch, info.dtype)
                header[name] = torch.empty(info.shape, dtype=dtype, device="meta")
                shard_of[name] = shard

    def read(name: str) -> Tensor:
        # Opened for each tensor: closing unmaps its pages, which would otherwise count as used memory.
        with safe_open(shard_of[name], "pt") as file:
            return file.get_tensor(name)

    return TensorSource(path, header, read, tuple(shards))


M = TypeVar("M", bound=nn.Module)
# What initialises parameters, of torch.nn.init and of tensors themselves.
_WRITING = (
    "uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_",
    "xavier_normal_", "constant_", "zero_", "fill_", "copy_", "erfinv_", "mul_", "add_", "clamp_",
)  # fmt: skip


class _NothingDrawn(TorchFunctionMode):
    """Leaves out what writes numbers into tensors of the meta device, which takes most of the time of building."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _WRITING:
            written = args[0] if args else kwargs.get("tensor")
            if isinstance(written, Tensor) and written.is_meta:
                return written
        return func(*args, **kwargs)


@contextmanager
def shapes_alone() -> Iterator[None]:
    """What is built in it is on the meta device, buffers too: only names and shapes are asked for."""
    with torch.device("meta"), _NothingDrawn():
        yield


def built_without_memory(build: Callable[[], M]) -> M:
    """A module whose parameters are on the meta device; buffers are real, because a file may lack them.

    Few modules compute buffers from their parameters; those are built with memory.
    """
    try:
        with init_empty_weights(include_buffers=False), _NothingDrawn():
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
    """Load a module strictly, each tensor directly to its device and dtype; nothing is changed on a mismatch.

    Args:
        module: preferably one that was `built_without_memory`.
        source: the weights.
        recipes: for each tensor of the module its name in the source and how it is transformed.
        what: the module's name in a message.
        device: of all parameters and buffers.
        dtype: of the floating-point ones; None keeps the dtype of each.
        left_out: prefixes of tensors that the source need not have; on meta, their modules are initialised.

    Raises:
        WeightsMismatch: names what is missing, unexpected or of another shape.
    """
    state = module.state_dict()
    expected = {n: t for n, t in state.items() if n in recipes or not n.startswith(left_out or ("\0",))}
    offered = {name: transform(source.header[key]) for name, (key, transform) in recipes.items()}
    require_same_tensors(offered, expected, str(source.path), what)
    for name in expected:
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
    target_dtype = dtype if dtype is not None and old.is_floating_point() else old.dtype
    value = value.detach().to(device=device, dtype=target_dtype, copy=True).contiguous()
    if isinstance(old, nn.Parameter):
        setattr(owner, leaf, nn.Parameter(value, requires_grad=old.requires_grad))
    else:
        setattr(owner, leaf, value)


def safetensors_of(path: Path) -> Path | None:
    """The safetensors twin of a `.pth`, `NAME.pth.safetensors`, made now if it is missing or out of date.

    The twin's header holds the size and the time of the file it was made from, so a changed `.pth` is converted
    again. It appears complete or not at all.

    Returns:
        None where there is no room or no right to write beside the file; a warning says so.

    Raises:
        WeightsMismatch: as `read_pth`.
    """
    twin = path.with_name(f"{path.name}.safetensors")
    if _is_made_from(twin, path):
        return twin
    read_header(path)  # says more clearly than torch what a file is instead
    tensors = read_pth(path)  # before anything is written: a refusal leaves nothing behind
    part = twin.with_name(f".{twin.name}.part")
    try:
        with FileLock(f"{part}.lock"):  # several processes of one run start at the same time
            try:
                if not _is_made_from(twin, path):
                    _check_space(path, tensors)
                    logger.info("converting %s to %s once", path, twin.name)
                    _write(tensors, part, _stamp(path))
                    move_into_place(part, twin)
            finally:
                part.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        logger.warning(
            "%s: read as it is, %s cannot be written beside it (%s)", path, twin.name, reason_of(error)
        )
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
    """Write without a copy in memory, except of tensors that share a storage."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        shared = storage.data_ptr() in seen or storage.nbytes() != tensor.numel() * tensor.element_size()
        seen.add(storage.data_ptr())
        separate[name] = (
            tensor.clone(memory_format=torch.contiguous_format) if shared else tensor.contiguous()
        )
    save_file(separate, part, metadata=metadata)
    part.chmod(0o644)  # safetensors are written for the owner alone
