"""A manifest's images packed into tar shards, without the cameras' metadata.

Shards are named and laid out as WebDataset reads them (`000000.tar` with `000000000.jpg` and `000000000.json`); the
new manifest names each image inside its shard, and training reads it there. The user's files stay as they are.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.preparing.files import complete_file, write_line
from data.preparing.metadata import without_metadata
from skingpt4.records.archives import StoreError, read_bytes
from skingpt4.records.comparing.hashes import perceptual_hash
from skingpt4.records.images import ImageError, open_image
from skingpt4.records.manifest import manifest_lines, read_manifest
from skingpt4.records.naming import hint, image_path
from skingpt4.records.record import parse_line
from skingpt4.support.errors import UserError
from skingpt4.support.files import file_sha256, move_into_place

STATE = "packing.json"


class PackError(UserError):
    """Packing cannot go on; the message says why. Complete shards stay and are used when it is run again."""


def pack(manifest: Path, out_dir: Path, shard_size: int, progress: bool = True) -> Path:
    """Write shards and a new manifest of the same name under `out_dir`; returns the manifest.

    A run that was stopped keeps its complete shards: the same command goes on after the last of them. The manifest
    comes last, so that its existence means that everything is there. Images lose their metadata, not their pixels;
    `x_original_sha256` is the hash of the original file.

    Args:
        manifest: JSONL; its images may lie in folders or shards.
        out_dir: another folder than the manifest's.
        shard_size: bytes of members after which a shard is closed.
        progress: show a bar on stderr.

    Raises:
        PackError: an image cannot be read, or the folder holds something else.
        RecordError: the manifest cannot be used.
    """
    if out_dir.resolve() == manifest.parent.resolve():
        raise PackError(f"{out_dir}: is the manifest's own folder; name another --out-dir")
    total = len(read_manifest(manifest))  # every line is a record before the first byte is written
    target = out_dir / manifest.name
    shards = out_dir / "shards"
    try:
        shards.mkdir(parents=True, exist_ok=True)
        _claim(out_dir, {"manifest_sha256": file_sha256(manifest), "shard_size": shard_size})
        with (
            complete_file(target) as file,
            tqdm(total=total, desc="packing", unit="picture", disable=not progress) as bar,
        ):
            rows = enumerate(_rows(manifest))
            number = 0
            for lines in _finished(shards):
                for line in lines:
                    next(rows)
                    write_line(file, line)
                    bar.update()
                number += 1
            while (first := next(rows, None)) is not None:
                for line in _write_shard(
                    shards / f"{number:06d}.tar", first, rows, shard_size, manifest.parent
                ):
                    write_line(file, line)
                    bar.update()
                number += 1
    except OSError as error:
        raise PackError(f"{error.filename or out_dir}: cannot be written ({error.strerror})") from None
    return target


def _rows(manifest: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line, _ in manifest_lines(manifest):
        where = f"{manifest}, line {number}"
        own = {key: value for key, value in json.loads(line).items() if key.startswith("x_")}
        yield where, parse_line(line, where) | own


def _claim(out_dir: Path, packing: dict[str, Any]) -> None:
    """Go on only with shards of the same packing; refuse those of another."""
    state = out_dir / STATE
    begun = json.loads(state.read_text()) if state.is_file() else None
    if begun is None and any((out_dir / "shards").iterdir()):
        raise PackError(f"{out_dir}: holds shards of something else; name another --out-dir")
    if begun not in (None, packing):
        raise PackError(f"{out_dir}: holds another packing; name another --out-dir, or delete it")
    for part in (out_dir / "shards").glob("*.part"):
        part.unlink()
    state.write_text(json.dumps(packing))


def _finished(shards: Path) -> Iterator[list[dict[str, Any]]]:
    """The records in each complete shard of an earlier run, shard by shard."""
    for path in sorted(shards.glob("??????.tar")):
        with tarfile.open(path, "r:") as tar:
            yield [json.load(tar.extractfile(m)) for m in tar if m.name.endswith(".json")]  # type: ignore[arg-type]


def _write_shard(
    path: Path, first: Any, rows: Iterator[Any], shard_size: int, folder: Path
) -> list[dict[str, Any]]:
    """Fill one shard, which appears when it is complete; returns its records."""
    part = path.with_name(f"{path.name}.part")
    lines, size = [], 0
    try:
        with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
            row = first
            while row is not None:
                index, (where, record) = row
                data, suffix = _clean_image(where, record, folder)
                key = f"{index:09d}"
                record["image"] = f"shards/{path.name}/{key}{suffix}"
                text = json.dumps(record, ensure_ascii=False).encode()
                for name, content in ((f"{key}{suffix}", data), (f"{key}.json", text)):
                    header = tarfile.TarInfo(name)
                    header.size = len(content)
                    tar.addfile(header, io.BytesIO(content))
                    size += len(content)
                lines.append(record)
                row = next(rows, None) if size < shard_size else None
        move_into_place(part, path)
    finally:
        part.unlink(missing_ok=True)
    return lines


def _clean_image(where: str, record: dict[str, Any], folder: Path) -> tuple[bytes, str]:
    """An image file without metadata, and its suffix; the record gets its hash and measures."""
    path = image_path(folder, record["image"])
    try:
        data = read_bytes(path)
        if record["sha256"] not in (None, hashlib.sha256(data).hexdigest()):
            raise PackError(f"{where}: {path} is not the picture that the record's sha256 belongs to")
        clean, suffix = without_metadata(data)
        image = open_image(clean)
    except FileNotFoundError:
        raise PackError(f"{where}: {path} is not there{hint(path)}") from None
    except (OSError, StoreError, ImageError) as error:
        raise PackError(f"{where}: {path} cannot be packed ({error})") from None
    if clean != data:
        record["x_original_sha256"] = hashlib.sha256(data).hexdigest()
    record["sha256"] = hashlib.sha256(clean).hexdigest()
    record["phash"] = record["phash"] or perceptual_hash(image)
    record["width"], record["height"] = image.size
    return clean, suffix
