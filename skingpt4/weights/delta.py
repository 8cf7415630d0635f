"""Merge a Vicuna delta (v0 or v1.1) with its LLaMA, tensor by tensor, in a few gigabytes of memory.

Vicuna was first published as the difference from LLaMA: model = base + delta, in the delta's precision. Base and
delta may be sharded in any way, as safetensors or `.bin`. The result is written shard by shard into a hidden
directory beside `--out` and moved there when it is complete; a merge that was stopped is continued.

    skingpt4 delta --base llama-13b-hf --delta vicuna-13b-delta-v1.1 --out weights/vicuna-13b-v1.1
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from skingpt4.support.errors import reason_of
from skingpt4.support.files import move_into_place
from skingpt4.support.parse import ParseError, read_json_object
from skingpt4.weights.delta_files import DeltaError, ModelFiles, open_pair
from skingpt4.weights.files.headers import INDEXES
from skingpt4.weights.language_model import LanguageModelError, require_complete

PLAN = "merge.json"
SHARD_BYTES = 2_000_000_000
# What a model needs beside its weights; the delta's files are used, because they have the new vocabulary.
BESIDE = ("config.json", "generation_config.json", "tokenizer.model", "tokenizer.json", "tokenizer_config.json",
          "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")  # fmt: skip


@dataclass(frozen=True)
class Merge:
    """What will be written: tensors by shard, in the delta's precision."""

    base: ModelFiles
    delta: ModelFiles
    shards: dict[str, list[str]]

    @property
    def num_bytes(self) -> int:
        """Bytes of the result's tensors."""
        return sum(self.delta.tensors[name].num_bytes for names in self.shards.values() for name in names)


def plan(base: str | Path, delta: str | Path, shard_bytes: int = SHARD_BYTES) -> Merge:
    """Check that the delta belongs to the base, from headers, and lay out the result.

    Args:
        base: LLaMA's Hugging Face directory.
        delta: the delta's.
        shard_bytes: of a result's file; a larger tensor has one of its own. Memory is bounded by it.

    Raises:
        DeltaError: they do not belong together, or one is something else; the message says what to do.
    """
    files = open_pair(Path(base), Path(delta))
    groups: list[list[str]] = [[]]
    size = 0
    for name, info in files[1].tensors.items():
        if groups[-1] and size + info.num_bytes > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += info.num_bytes
    names = [f"model-{n:05d}-of-{len(groups):05d}.safetensors" for n in range(1, len(groups) + 1)]
    return Merge(*files, dict(zip(names, groups, strict=True)))


def merge(planned: Merge, out: str | Path, quiet: bool = False) -> Path:
    """Write the merged model; an earlier merge of the same files that was stopped is continued.

    Args:
        planned: what `plan` returned.
        out: the directory to make; must not hold anything yet.
        quiet: without a progress bar.

    Raises:
        DeltaError: `out` is taken, there is no room, or the disk ran full; what was merged so far is kept.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DeltaError(f"{out}: exists already; name another --out or move it away")
    part = out.with_name(f".{out.name}.part")
    try:
        part.mkdir(parents=True, exist_ok=True)
        _delete_what_does_not_fit(part, planned)
        done = [shard for shard in planned.shards if (part / shard).is_file()]
        _require_space(planned, done, part)
        with tqdm(total=planned.num_bytes, unit="B", unit_scale=True, desc=out.name, disable=quiet) as bar:
            for shard, names in planned.shards.items():
                if shard not in done:
                    _write_shard(planned, names, part / shard)
                bar.update(sum(planned.delta.tensors[name].num_bytes for name in names))
        _write_beside(planned, part)
        require_complete(part)
        (part / PLAN).unlink()
        os.replace(part, out)
    except (OSError, SafetensorError) as error:
        raise DeltaError(
            f"{out}: cannot be written ({reason_of(error)}); make room, then run the same command again: the "
            f"{len(list(part.glob('model-*.safetensors')))} files that are merged already are kept"
        ) from None
    except LanguageModelError as error:
        raise DeltaError(f"the merged model is not complete: {error}") from None
    return out


def added(base: Tensor, delta: Tensor) -> Tensor:
    """Base + delta in the delta's precision; rows that only the delta has are added to zeros, as in FastChat."""
    total = delta.clone()
    total[: len(base)] += base.to(delta.dtype)
    return total


def _write_shard(planned: Merge, names: list[str], path: Path) -> None:
    tensors = {name: added(planned.base.read(name), planned.delta.read(name)) for name in names}
    unfinished = path.with_name(f".{path.name}")
    try:
        save_file(tensors, unfinished, metadata={"format": "pt"})
        unfinished.chmod(0o644)  # safetensors are written for the owner alone
        move_into_place(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    planned.base.close()
    planned.delta.close()


def _delete_what_does_not_fit(part: Path, planned: Merge) -> None:
    """Delete what a merge of other files or a kill during a write left in the hidden directory."""
    plan_of_merge = {"base": planned.base.stamp(), "delta": planned.delta.stamp(), "shards": planned.shards}
    try:
        fits = read_json_object(part / PLAN) == plan_of_merge
    except (OSError, ParseError):
        fits = False
    for path in part.iterdir():
        if not fits or path.name.startswith("."):
            path.unlink()
    (part / PLAN).write_text(json.dumps(plan_of_merge), encoding="utf-8")


def _require_space(planned: Merge, done: list[str], part: Path) -> None:
    written = sum((part / shard).stat().st_size for shard in done)
    needed, free = planned.num_bytes - written + (64 << 20), shutil.disk_usage(part).free
    if free < needed:
        raise DeltaError(
            f"{part.parent}: the merged model needs {needed / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free; make "
            "room or choose another --out"
        )


def _write_beside(planned: Merge, part: Path) -> None:
    for name in BESIDE:
        source = next(
            (f / name for f in (planned.delta.folder, planned.base.folder) if (f / name).is_file()), None
        )
        # The base's tokenizer must not be mixed with the delta's: it may know fewer tokens.
        if source and (source.parent == planned.delta.folder or not _has_tokenizer(planned.delta.folder)):
            shutil.copyfile(source, part / name)
    try:
        config = read_json_object(planned.delta.folder / "config.json")
    except (OSError, ParseError) as error:
        raise DeltaError(f"{planned.delta.folder / 'config.json'}: is damaged ({reason_of(error)})") from None
    config.pop("_name_or_path", None)  # names the delta
    rows = planned.delta.tensors["model.embed_tokens.weight"].shape[0]
    (part / "config.json").write_text(
        json.dumps(config | {"vocab_size": rows}, indent=2) + "\n", encoding="utf-8"
    )
    weight_map = {name: shard for shard, names in planned.shards.items() for name in names}
    index: dict[str, Any] = {"metadata": {"total_size": planned.num_bytes}, "weight_map": weight_map}
    (part / INDEXES[0]).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json"))
