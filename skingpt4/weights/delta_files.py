"""The two directories of a delta merge: what they are, whether they belong together, and their tensors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from skingpt4.support.errors import UserError
from skingpt4.support.files import file_sha256
from skingpt4.support.parse import ParseError, read_json_object
from skingpt4.weights.files.headers import INDEXES, TensorInfo, UnreadableWeights, read_header, read_index
from skingpt4.weights.files.inspect_directory import inspect
from skingpt4.weights.files.inspection import KINDS
from skingpt4.weights.files.tensors import read_pth

EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
LLAMA_ROWS, PADDED_ROWS = 32000, 32001  # Vicuna v0 added one padding token
# LLaMA's tokenizer.model as published; every size of LLaMA 1 and 2 and every Vicuna has this one.
LLAMA_TOKENIZER_SHA256 = "9e556afd44213b6bd1be2b850ebbbd98f5481437a8021afaf58ee7fb1818d347"
SIZES = {4096: "7B", 5120: "13B", 6656: "33B", 8192: "65B"}


class DeltaError(UserError):
    """A base and a delta that cannot be merged; the message says why and what to do."""


class ModelFiles:
    """The tensors of a Hugging Face directory in any sharding; a `.bin` is memory-mapped until `close`.

    Raises:
        DeltaError: a shard is missing or cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors: dict[str, TensorInfo] = {}
        self.file_of: dict[str, Path] = {}
        self._open: dict[Path, dict[str, Tensor]] = {}
        for path in _shards(folder):
            if not path.is_file():
                raise DeltaError(f"{folder}: its index names {path.name}, which is not there; fetch it too")
            try:
                header = read_header(path)
            except UnreadableWeights as error:
                raise DeltaError(str(error)) from None
            for name, info in header.tensors.items():
                if not name.endswith("rotary_emb.inv_freq"):  # a constant that old versions stored
                    self.tensors[name], self.file_of[name] = info, path

    def read(self, name: str) -> Tensor:
        """One tensor, memory-mapped."""
        path = self.file_of[name]
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return file.get_tensor(name)
        if path not in self._open:
            self._open = {path: read_pth(path)}  # one at a time, because what was read of it counts as memory
        return self._open[path][name]

    def close(self) -> None:
        """Release a mapped file."""
        self._open = {}

    def stamp(self) -> dict[str, list[int]]:
        """Size and time of every file, so that a stopped merge is continued only with the same files."""
        paths = sorted(set(self.file_of.values()))
        return {p.name: [p.stat().st_size, p.stat().st_mtime_ns] for p in paths}


def open_pair(base: Path, delta: Path) -> tuple[ModelFiles, ModelFiles]:
    """(base, delta), checked to belong together from headers, two norms and the vocabularies.

    Raises:
        DeltaError: another kind of directory, another size, a base that is a Vicuna, another vocabulary.
    """
    _require_kinds(base, delta)
    files = ModelFiles(base), ModelFiles(delta)
    _require_shapes(*files)
    _require_vocabulary(base, delta, files[0].tensors[EMBEDDINGS[0]].shape[0])
    return files


def _shards(folder: Path) -> list[Path]:
    for index in INDEXES:
        if (folder / index).is_file():
            try:
                return [folder / name for name in sorted(set(read_index(folder / index).values()))]
            except UnreadableWeights as error:
                raise DeltaError(str(error)) from None
    shards = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not shards:
        raise DeltaError(f"{folder}: holds no safetensors and no pytorch_model*.bin")
    return shards


def _require_kinds(base: Path, delta: Path) -> None:
    for path, key in ((base, "--base"), (delta, "--delta")):
        if not path.is_dir():
            raise DeltaError(f"{key} {path}: no such directory")
    inspection = inspect(delta)
    what = inspection.problem or KINDS[inspection.kind]
    if inspection.kind == "language_model" and not inspection.problem:
        raise DeltaError(
            f"--delta {delta}: is a complete model (its final norm is not near zero), not a delta; name it as "
            "language.model as it is, or check that --base and --delta are not exchanged"
        )
    if inspection.kind != "vicuna_delta":
        raise DeltaError(f"--delta {delta}: is not a Vicuna delta but: {what}")
    inspection = inspect(base)
    what, family = inspection.problem or KINDS[inspection.kind], inspection.details.get("family")
    if inspection.kind != "language_model" or inspection.problem:
        raise DeltaError(f"--base {base}: is not a LLaMA but: {what}")
    if family != "llama":
        raise DeltaError(f"--base {base}: is of the family {family}; a Vicuna delta needs LLaMA")
    source = str(_config(base).get("_name_or_path", ""))
    if re.search(r"vicuna|alpaca", f"{base.resolve().name} {source}", re.IGNORECASE):
        raise DeltaError(
            f"--base {base}: is itself a fine-tuned LLaMA, going by its name; give the original LLaMA"
        )


def _require_shapes(base: ModelFiles, delta: ModelFiles) -> None:
    name = EMBEDDINGS[0]
    for files in (base, delta):
        if name not in files.tensors:
            raise DeltaError(f"{files.folder}: lacks {name}; a shard is missing")
    (base_rows, base_width), (rows, width) = base.tensors[name].shape, delta.tensors[name].shape
    layers = [_config(files.folder).get("num_hidden_layers") for files in (base, delta)]
    if base_width != width or layers[0] != layers[1]:
        sizes = [
            f"{w} wide with {n} layers{_size(w)}" for w, n in zip((base_width, width), layers, strict=True)
        ]
        raise DeltaError(f"the base is {sizes[0]}, the delta {sizes[1]}; take the LLaMA of the delta's size")
    if base_rows == PADDED_ROWS:
        raise DeltaError(
            f"--base {base.folder}: has {base_rows} tokens, so it is itself a Vicuna v0 or another fine-tuned LLaMA; "
            f"give the original LLaMA with {LLAMA_ROWS}"
        )
    if rows - base_rows not in (0, PADDED_ROWS - LLAMA_ROWS):
        raise DeltaError(
            f"the base has {base_rows} tokens, the delta {rows}; Vicuna's has as many as LLaMA, or one more (v0)"
        )
    missing, unexpected = (
        sorted(a.tensors.keys() - b.tensors.keys()) for a, b in ((delta, base), (base, delta))
    )
    odd = [
        n
        for n in base.tensors.keys() & delta.tensors.keys()
        if base.tensors[n].shape != delta.tensors[n].shape
        and (n not in EMBEDDINGS or base.tensors[n].shape[1:] != delta.tensors[n].shape[1:])
    ]
    for names, what in (
        (missing, "lacks"),
        (unexpected, "has, unlike the delta,"),
        (sorted(odd), "differs in"),
    ):
        if names:
            raise DeltaError(
                f"--base {base.folder}: {what} {len(names)} tensors: {', '.join(names[:4])}"
                f"{', ...' if len(names) > 4 else ''}"
            )


def _require_vocabulary(base: Path, delta: Path, rows: int) -> None:
    """Compare the published checksum where possible, else the tokens: the delta's may only add to the base's."""
    files = [folder / "tokenizer.model" for folder in (base, delta)]
    if all(file.is_file() for file in files):
        checksums = [file_sha256(file) for file in files]
        if checksums[0] == checksums[1]:
            return
        if rows == LLAMA_ROWS and LLAMA_TOKENIZER_SHA256 in checksums:
            other = base if checksums[1] == LLAMA_TOKENIZER_SHA256 else delta
            raise DeltaError(
                f"{other / 'tokenizer.model'}: is not LLaMA's published one, going by its sha256"
            )
    ours, theirs = _vocabulary(base), _vocabulary(delta)
    if ours and theirs and any(theirs.get(token) != n for token, n in ours.items()):
        token = next(token for token, n in ours.items() if theirs.get(token) != n)
        raise DeltaError(
            f"--base {base}: its vocabulary is not the delta's (token {token!r} is {ours[token]} here, "
            f"{theirs.get(token)} there); the delta was made from another LLaMA"
        )


def _vocabulary(folder: Path) -> dict[str, int]:
    """Token to id; empty where the directory has no tokenizer, because some publish it separately."""
    from skingpt4.weights.language_model import LanguageModelError, read_tokenizer  # slow to import

    try:
        return dict(read_tokenizer(str(folder), local_only=True).get_vocab())
    except LanguageModelError:
        return {}


def _config(folder: Path) -> dict[str, Any]:
    try:
        return read_json_object(folder / "config.json")
    except (OSError, ParseError):
        return {}


def _size(width: int) -> str:
    return f" ({SIZES[width]})" if width in SIZES else ""
