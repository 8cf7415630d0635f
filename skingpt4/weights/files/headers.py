"""What a file of weights holds, from its header alone: names, shapes and dtypes, never the numbers.

A safetensors header is JSON. A `.pth` goes through torch with ``weights_only=True`` onto the meta device, so that
no code in it is run and no tensor is read. Files that are something else (a Git LFS pointer, a saved web page, an
incomplete download) are named for what they are.
"""

from __future__ import annotations

import math
import mmap
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from pydantic import TypeAdapter

from skingpt4.support.errors import UserError
from skingpt4.support.parse import ParseError, parse_json

_SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}  # fmt: skip
_ITEM_BYTES = {"float64": 8, "int64": 8, "complex64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2,
               "int16": 2}  # fmt: skip
_MAX_HEADER = 100 << 20  # the format's own limit
# Which tensor is in which file of a sharded model, in the two layouts of Hugging Face.
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype (torch's name, e.g. `float16`) of one tensor in a file."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def num_bytes(self) -> int:
        """Bytes of its numbers."""
        return math.prod(self.shape) * _ITEM_BYTES.get(self.dtype, 1)


@dataclass(frozen=True)
class Header:
    """The tensors of one file by name, and what else its header says.

    `format` is `safetensors`, `pth` (torch's zip) or `legacy pth`. `extra` has the safetensors metadata, or the type
    of what a `.pth` holds beside its tensors (an optimizer, an epoch). `inside` is the entry of a `.pth` that holds
    the tensors (`model`), or "".
    """

    format: str
    tensors: dict[str, TensorInfo]
    extra: dict[str, str] = field(default_factory=dict)
    inside: str = ""


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
        super().__init__(message)
        self.missing, self.unexpected, self.of_another_shape = missing, unexpected, of_another_shape


class UnreadableWeights(WeightsMismatch):
    """A file that is not a usable file of weights; `kind` says what it is instead.

    One of `missing`, `empty`, `lfs_pointer`, `web_page`, `truncated`, `unfinished`, `pickle_with_code`, `gguf`,
    `not_weights`.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class _Entry:
    """One tensor in the header of a safetensors file."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@dataclass(frozen=True)
class _Index:
    weight_map: dict[str, str]


def read_header(path: str | Path) -> Header:
    """Read names, shapes and dtypes of the tensors in a `.safetensors`, `.pth`, `.pt` or `.bin`.

    The content decides, not the suffix. Neither memory nor time grows with the file, except for torch's format from
    before 2020, whose numbers are between its headers: such a file is read once from beginning to end.

    Raises:
        UnreadableWeights: no such file, or not a complete file of tensors; nothing in it is run.
    """
    path = Path(path)
    if not path.is_file():
        raise UnreadableWeights("missing", f"{path}: no such file of weights")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise UnreadableWeights("missing", f"{path}: cannot be read ({error.strerror})") from None
    _refuse_other_files(path, start)
    if _starts_as_safetensors(start):  # first: the length of its header may spell what a pickle begins with
        return _read_safetensors(path)
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return _read_pth(path, is_zip=start[:2] == b"PK")
    return _read_safetensors(path)


def _starts_as_safetensors(start: bytes) -> bool:
    return start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] <= _MAX_HEADER


def read_index(path: Path) -> dict[str, str]:
    """Tensor to file, from the index of a sharded model.

    Raises:
        UnreadableWeights: the index is damaged.
    """
    try:
        index = TypeAdapter(_Index).validate_json(path.read_bytes())
    except ValueError:
        raise UnreadableWeights("not_weights", f"{path}: is damaged; fetch it again") from None
    for file in index.weight_map.values():
        if file != Path(file).name:
            problem = f"{path}: names the file {file!r}, which is not in its own folder; it is not opened"
            raise UnreadableWeights("not_weights", problem)
    return index.weight_map


def lfs_pointer(start: bytes) -> tuple[str, int] | None:
    """(sha256, size in bytes) that a Git LFS pointer stands for, or None if these bytes are not a pointer."""
    if not start.startswith(b"version https://git-lfs.github.com/spec/"):
        return None
    match = re.search(rb"oid sha256:([0-9a-f]{64})\s+size (\d+)", start)
    return (match[1].decode(), int(match[2])) if match else ("", 0)


def _refuse_other_files(path: Path, start: bytes) -> None:
    if path.suffix == ".part":
        raise UnreadableWeights("unfinished", f"{path}: is an unfinished download; run the same fetch again")
    if not start:
        raise UnreadableWeights("empty", f"{path}: is empty; get it again")
    pointer = lfs_pointer(start)
    if pointer:
        raise UnreadableWeights(
            "lfs_pointer",
            f"{path}: is a Git LFS pointer, not the {pointer[1] / 1e6:.0f} MB file that it stands for; run "
            "`git lfs pull` in its repository, or download the file itself",
        )
    if start.lstrip()[:1] == b"<":
        raise UnreadableWeights(
            "web_page",
            f"{path}: is a saved web page, not weights; the link wanted a login or a confirmation, open it in a "
            "browser",
        )
    if start[:4] == b"GGUF":
        raise UnreadableWeights(
            "gguf", f"{path}: is a GGUF file for llama.cpp; bring the model's Hugging Face directory instead"
        )


def _read_safetensors(path: Path) -> Header:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
        (length,) = struct.unpack("<Q", start[:8].ljust(8, b"\xff"))
        if length > _MAX_HEADER or start[8:9] != b"{":
            raise UnreadableWeights(
                "not_weights", f"{path}: is neither safetensors nor a torch file, so it holds no weights"
            )
        text = start[8:] + file.read(length - 1)
    if len(text) < length:
        raise _truncated(path, 8 + length, size)
    try:
        content = parse_json(text)
        if not isinstance(content, dict):
            raise ParseError("no object")
        metadata = TypeAdapter(dict[str, Any]).validate_python(content.pop("__metadata__", {}))
        entries = TypeAdapter(dict[str, _Entry]).validate_python(content)
    except ValueError:  # also pydantic's
        raise UnreadableWeights("not_weights", f"{path}: its safetensors header is damaged") from None
    end = 8 + length + max((entry.data_offsets[1] for entry in entries.values()), default=0)
    if size < end:
        raise _truncated(path, end, size)
    tensors = {
        name: TensorInfo(entry.shape, _SAFETENSORS_DTYPES.get(entry.dtype, entry.dtype))
        for name, entry in entries.items()
    }
    return Header("safetensors", tensors, {str(key): str(value) for key, value in metadata.items()})


def _truncated(path: Path, expected: int, size: int) -> UnreadableWeights:
    return UnreadableWeights(
        "truncated",
        f"{path}: is truncated, {size:,} bytes of {expected:,}; the download broke off, get it again",
    )


def _read_pth(path: Path, is_zip: bool) -> Header:
    import torch  # takes seconds, and safetensors do not need it

    if is_zip and not zipfile.is_zipfile(path):  # the directory of a zip is at its end
        raise UnreadableWeights(
            "truncated", f"{path}: is truncated, its end is missing; the download broke off, get it again"
        )
    try:
        with warnings.catch_warnings():  # about pickle protocols; what matters is refused below
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="meta", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise _unpickling_problem(path, str(error)) from None
    except Exception as error:  # broken bytes make torch's unpickler raise whatever they happen to hit
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        if "magic number" in reason:
            raise UnreadableWeights(
                "not_weights", f"{path}: is a pickle, but not a file of tensors"
            ) from None
        raise UnreadableWeights(
            "truncated", f"{path}: cannot be read, perhaps truncated ({reason}); get it again"
        ) from None
    inside, state = state_dict_in(content)
    tensors = {str(key): value for key, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise UnreadableWeights("not_weights", f"{path}: holds no tensors by name")
    beside = {**state, **(content if inside else {})}
    return Header(
        "pth" if is_zip else "legacy pth",
        {
            key: TensorInfo(tuple(value.shape), str(value.dtype).removeprefix("torch."))
            for key, value in tensors.items()
        },
        {str(k): type(v).__name__ for k, v in beside.items() if k not in tensors and k != inside},
        inside,
    )


def state_dict_in(content: Any) -> tuple[str, dict[Any, Any]]:
    """(name of the entry, its tensors) of a `.pth`: training checkpoints hold their tensors in an entry."""
    if not isinstance(content, dict):
        return "", {}
    inside = next(
        (key for key in ("model", "state_dict", "module") if isinstance(content.get(key), dict)), ""
    )
    return inside, content[inside] if inside else content


def _unpickling_problem(path: Path, message: str) -> UnreadableWeights:
    match = re.search(r"GLOBAL ([\w.]+)", message)
    name = match[1] if match else _first_import(path)
    if name:
        return UnreadableWeights(
            "pickle_with_code",
            f"{path}: is a pickle with code in it ({name}), so it is not opened; ask its author for safetensors or "
            "a plain state dict",
        )
    return UnreadableWeights(
        "not_weights", f"{path}: is a pickle, but not a file of tensors; it is not opened"
    )


def _first_import(path: Path) -> str:
    """The first name that a bare pickle would import, or ""; its instructions are listed, not run."""
    strings: list[str] = []
    try:
        # Mapped, a wrong length ends at the file's end; reading from the file would first reserve that much.
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for instruction, argument, _ in pickletools.genops(cast("IO[bytes]", content)):
                if instruction.name == "STACK_GLOBAL":
                    return ".".join(strings[-2:])
                if instruction.name == "GLOBAL":
                    return str(argument).replace(" ", ".")
                if isinstance(argument, str):
                    strings.append(argument)
    except ValueError:
        pass
    return ""
