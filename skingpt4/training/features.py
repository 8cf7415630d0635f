"""Frozen features, computed once: the Q-Former's queries of every picture of a manifest, kept on disk.

A picture is kept as it is (one view), or as several random crops of which training draws one a sample. Crops are
drawn from the picture's own hash, so they are the same in every manifest: what another manifest of the same encoder
already keeps is copied, not computed.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from skingpt4.checkpoints.identity import encoder_identity
from skingpt4.config.schema import Config
from skingpt4.model.build import build_encoder
from skingpt4.model.network import ImageEncoder
from skingpt4.records.archives import StoreError, read_bytes
from skingpt4.records.images import MAX_BYTES, open_image, random_crop_box, to_tensor
from skingpt4.records.record import Record
from skingpt4.support.files import file_sha256
from skingpt4.training.feature_store import (
    DTYPES,
    FeatureStore,
    Filling,
    Known,
    Shape,
    is_complete,
    locked,
    require_space,
)
from skingpt4.training.samples import PictureSource, picture_files

IN_MEMORY = 16  # pictures, or crops of them, that are encoded at once


class Pictures(Dataset):
    """Whole pictures (3, h, w) of records in order, for a loader."""

    def __init__(self, load: PictureSource, count: int) -> None:
        """Keep the source and the number of records."""
        self.load, self.count = load, count

    def __len__(self) -> int:
        """Number of pictures."""
        return self.count

    def __getitem__(self, row: int) -> Tensor:
        """Picture of record `row`."""
        return self.load(row, None)["image"]


def encode_records(
    records: Sequence[Record], encoder: ImageEncoder, image_size: int, batch_size: int = IN_MEMORY
) -> Tensor:
    """Queries (n, q, d) fp32 of all records' whole pictures, with a progress bar; nothing is kept."""
    vision = encoder.vision_encoder
    load = picture_files(records, image_size, vision.mean, vision.std, augment=False)
    loader = DataLoader(Pictures(load, len(records)), batch_size=batch_size)
    bar = tqdm(loader, desc="encoding pictures", unit="batch")
    return torch.cat([encoder(image).cpu() for image in bar])


@dataclass
class Team:
    """The processes that fill a store together; each takes every `world`-th picture."""

    rank: int = 0
    world: int = 1
    wait: Callable[[], None] = lambda: None  # until all have come here


def cached_queries(
    manifest: str | Path,
    records: Sequence[Record],
    config: Config,
    cache_dir: str | Path,
    get_encoder: Callable[[], ImageEncoder] | None = None,
    views: int = 1,
    team: Team | None = None,
) -> FeatureStore:
    """The queries of a manifest's pictures, from the cache or computed and put there.

    The folder's name is made of the encoder's identity, the manifest's hash, the views and the type. Filling it
    is resumed where it was interrupted.

    Args:
        manifest: the file that `records` were read from.
        records: its records.
        config: names the encoder, and the type (`data.feature_dtype`).
        cache_dir: where stores stand.
        get_encoder: gives the encoder when it is needed; by default it is built.
        views: 1 keeps whole pictures, more keeps so many random crops of each.
        team: the processes that call this together.

    Raises:
        FeatureError: the disk is too small, or what is kept is damaged.
        ImageError: a picture cannot be read.
    """
    kind = f"{encoder_identity(config)}-{views}x{config.qformer.num_query_tokens}-{config.data.feature_dtype}"
    folder = Path(cache_dir) / kind / file_sha256(manifest)[:16]
    team = team or Team()
    shape = Shape(
        len(records), views, config.qformer.num_query_tokens, config.qformer.width, config.data.feature_dtype
    )
    leads = team.rank == 0
    with locked(folder) if leads and not is_complete(folder) else nullcontext():
        if leads and not is_complete(folder):  # another run may have finished it while this one waited
            tqdm.write(f"{manifest}: keeping features of {require_space(folder, shape)}", file=sys.stderr)
            Filling.prepare(folder, shape)
        team.wait()
        if not is_complete(folder):
            _fill(folder, shape, records, config, get_encoder or (lambda: build_encoder(config)), team)
        team.wait()
        if leads and not is_complete(folder):
            Filling.finish(folder, shape)
    team.wait()
    return FeatureStore(folder)


def _fill(
    folder: Path,
    shape: Shape,
    records: Sequence[Record],
    config: Config,
    get_encoder: Callable[[], ImageEncoder],
    team: Team,
) -> None:
    """Write this process's share of the rows that are missing."""
    share = f", share {team.rank + 1} of {team.world}" if team.world > 1 else ""
    with Filling(folder, shape) as filling:
        rows = filling.missing(team.rank, team.world)
        others = [path for path in sorted(folder.parent.iterdir()) if path != folder]
        if known := Known.of(others):
            rows = _copy(filling, rows, records, known)
        if not rows:
            return
        encoder = get_encoder()
        views = _Views(records, rows, shape.num_views, encoder.vision_encoder, config.vision.image_size)
        workers = config.data.num_workers if encoder_device_of(encoder).type == "cuda" else 0
        loader = DataLoader(
            views, batch_size=max(1, IN_MEMORY // shape.num_views), collate_fn=list, num_workers=workers
        )
        with tqdm(
            total=len(rows), desc=f"encoding pictures{share}", unit="picture", disable=team.rank > 0
        ) as bar:
            for batch in loader:
                queries = encoder(torch.cat([pixels for _, _, pixels in batch])).cpu()
                bits = queries.to(DTYPES[shape.dtype]).view(torch.int16).numpy()
                bits = bits.reshape(len(batch), shape.num_views, -1)
                for (row, digest, _), part in zip(batch, bits, strict=True):
                    filling.write(row, digest, part)
                bar.update(len(batch))


def _copy(filling: Filling, rows: Sequence[int], records: Sequence[Record], known: Known) -> list[int]:
    """Take over what other stores have; the rows that they have not."""
    left = []
    for row in tqdm(rows, desc="looking for pictures kept already", unit="picture"):
        digest = hashlib.sha256(_bytes_of(records[row])).digest()
        kept = known.find(digest)
        if kept is None:
            left.append(row)
        else:
            filling.write(row, digest, kept)
    return left


def _bytes_of(record: Record) -> bytes:
    try:
        return read_bytes(record.image_path, MAX_BYTES)
    except (OSError, StoreError, ValueError):
        open_image(record.image_path)  # says in a sentence what is wrong
        raise


def encoder_device_of(encoder: ImageEncoder) -> torch.device:
    """Where an encoder stands."""
    return next(encoder.parameters()).device


class _Views(Dataset):
    """The pictures of some rows: row, SHA-256 of the file, pixels (views, 3, h, w)."""

    def __init__(
        self, records: Sequence[Record], rows: Sequence[int], views: int, vision: Any, size: int
    ) -> None:
        self.records, self.rows, self.views = records, rows, views
        self.mean, self.std, self.size = vision.mean, vision.std, size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[int, bytes, Tensor]:
        row = self.rows[number]
        data = _bytes_of(self.records[row])
        digest = hashlib.sha256(data).digest()
        image = open_image(data, str(self.records[row].image_path))
        boxes = [None] if self.views == 1 else crop_boxes(digest, image.size, self.views)
        pixels = [to_tensor(image, self.size, self.mean, self.std, box) for box in boxes]
        return row, digest, torch.stack(pixels)


def crop_boxes(digest: bytes, size: tuple[int, int], count: int) -> list[tuple[float, float, float, float]]:
    """The random crops under which a picture is kept, a function of its file's SHA-256 and their number.

    Args:
        digest: 32 bytes.
        size: width and height of the picture.
        count: how many; fewer are the first of more.
    """
    words = np.frombuffer(digest, "<u4").tolist()
    return [random_crop_box(*size, np.random.default_rng([*words, view])) for view in range(count)]


def picture_queries(*parts: FeatureStore) -> PictureSource:
    """Pictures as rows of kept queries, one store after another; of several views one is drawn a sample."""
    ends = np.cumsum([len(part) for part in parts])

    def load(row: int, rng: np.random.Generator | None) -> dict[str, Tensor]:
        number = int(np.searchsorted(ends, row, side="right"))
        part = parts[number]
        views = part.shape.num_views
        view = 0 if views == 1 or rng is None else int(rng.integers(views))
        return {"queries": part.view(row - int(ends[number]) + len(part), view).float()}

    return load
