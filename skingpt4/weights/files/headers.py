"""What a file of weights holds, read from its header alone: names, shapes and dtypes, never the numbers.

A safetensors header is JSON. A `.pth` goes through torch with ``weights_only=True`` onto the meta device, so that
no code in it is run and no tensor is read. Files that are something else (a Git LFS pointer, a saved web page, a
download that broke off) are named for what they are.
"""

from __future__ import annotations

import json
import math
import mmap
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from skingpt4.support.errors import UserError

_SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}  # fmt: skip
_ITEM_BYTES = {"float64": 8, "int64": 8, "complex64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2,
               "int16": 2}  # fmt: skip
_MAX_HEADER = 100 << 20  # the format's own limit


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

    `format` is `safetensors`, `pth` (torch's zip) or `legacy pth`. `extra` has the safetensors metadata, or what
    stands in a `.pth` beside its tensors (an optimizer, an epoch), by its type's name. `inside` is the entry of a
    `.pth` that the tensors stood in (`model`), or "".
    """

    format: str
    tensors: dict[str, TensorInfo]
    extra: dict[str, str] = field(default_factory=dict)
    inside: str = ""


class UnreadableWeights(UserError):
    """A file that is no usable file of weights; `kind` says what it is instead.

    One of `missing`, `empty`, `lfs_pointer`, `web_page`, `truncated`, `unfinished`, `pickle_with_code`, `gguf`,
    `not_weights`.
    """

    def __init__(self, kind: str, message: str) -> None:
        """`message` is a whole sentence with the path and what to do."""
        super().__init__(message)
        self.kind = kind


def read_header(path: str | Path) -> Header:
    """Read names, shapes and dtypes of the tensors in a `.safetensors`, `.pth`, `.pt` or `.bin`.

    The content decides, not the suffix. Memory does not grow with the file, nor does time, but for torch's format
    from before 2020, whose numbers stand between its headers: such a file is read through once.

    Raises:
        UnreadableWeights: no such file, or one that is no complete file of tensors; nothing in it is run.
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


def lfs_pointer(start: bytes) -> tuple[str, int] | None:
    """(sha256, size in bytes) that a Git LFS pointer stands for, or None if these bytes are no pointer."""
    if not start.startswith(b"version https://git-lfs.github.com/spec/"):
        return None
    found = re.search(rb"oid sha256:([0-9a-f]{64})\s+size (\d+)", start)
    return (found[1].decode(), int(found[2])) if found else ("", 0)


def _refuse_other_files(path: Path, start: bytes) -> None:
    if path.suffix == ".part":
        raise UnreadableWeights("unfinished", f"{path}: is an unfinished download; run the same fetch again")
    if not start:
        raise UnreadableWeights("empty", f"{path}: is empty; get it anew")
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
        entries: dict[str, Any] = json.loads(text)
        extra = entries.pop("__metadata__", {})
        end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        tensors = {
            name: TensorInfo(tuple(entry["shape"]), _SAFETENSORS_DTYPES.get(entry["dtype"], entry["dtype"]))
            for name, entry in entries.items()
        }
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UnreadableWeights("not_weights", f"{path}: its safetensors header is damaged") from None
    if size < end:
        raise _truncated(path, end, size)
    return Header("safetensors", tensors, {str(key): str(value) for key, value in extra.items()})


def _truncated(path: Path, whole: int, size: int) -> UnreadableWeights:
    return UnreadableWeights(
        "truncated",
        f"{path}: is truncated, {size:,} bytes of {whole:,}; the download broke off, get it anew",
    )


def _read_pth(path: Path, is_zip: bool) -> Header:
    import torch  # takes seconds; whoever reads safetensors alone does without

    if is_zip and not zipfile.is_zipfile(path):  # the directory of a zip stands at its end
        raise UnreadableWeights(
            "truncated", f"{path}: is truncated, its end is missing; the download broke off, get it anew"
        )
    try:
        with warnings.catch_warnings():  # about pickle protocols; what matters is refused below
            warnings.simplefilter("ignore")
            held = torch.load(path, map_location="meta", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise _unpickling_problem(path, str(error)) from None
    except Exception as error:  # broken bytes make torch's unpickler raise whatever they happen to hit
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        if "magic number" in reason:
            raise UnreadableWeights("not_weights", f"{path}: is a pickle, but no file of tensors") from None
        raise UnreadableWeights(
            "truncated", f"{path}: cannot be read, perhaps truncated ({reason}); get it anew"
        ) from None
    inside, state = state_dict_in(held)
    tensors = {str(key): value for key, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise UnreadableWeights("not_weights", f"{path}: holds no tensors by name")
    beside = {**state, **(held if inside else {})}
    return Header(
        "pth" if is_zip else "legacy pth",
        {
            key: TensorInfo(tuple(value.shape), str(value.dtype).removeprefix("torch."))
            for key, value in tensors.items()
        },
        {str(k): type(v).__name__ for k, v in beside.items() if k not in tensors and k != inside},
        inside,
    )


def state_dict_in(held: Any) -> tuple[str, dict[Any, Any]]:
    """(entry, what stands in it) of what a `.pth` holds: training checkpoints keep their tensors under a name."""
    if not isinstance(held, dict):
        return "", {}
    inside = next((key for key in ("model", "state_dict", "module") if isinstance(held.get(key), dict)), "")
    return inside, held[inside] if inside else held


def _unpickling_problem(path: Path, message: str) -> UnreadableWeights:
    named = re.search(r"GLOBAL ([\w.]+)", message)
    name = named[1] if named else _first_import(path)
    if name:
        return UnreadableWeights(
            "pickle_with_code",
            f"{path}: is a pickle with code in it ({name}), so it is not opened; ask its author for safetensors or "
            "a plain state dict",
        )
    return UnreadableWeights("not_weights", f"{path}: is a pickle, but no file of tensors; it is not opened")


def _first_import(path: Path) -> str:
    """The first name that a bare pickle would import, or ""; its instructions are listed, not followed."""
    strings: list[str] = []
    try:
        # Mapped, a length that lies ends at the file's end; a file's own read would first reserve that much.
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
