"""What training samples show: images from their files, or the feature cache.

The cache has the encoder's vectors of every image of a manifest, computed once and stored on disk: the Q-Former's
queries, or the pooled patch tokens that the projectors mlp and linear read.

An image is cached complete (one view), or as several random crops of which training draws one for each sample. The
crops are drawn from the file's own hash, so they are the same in every manifest: features that another manifest of
the same encoder has are copied, not computed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from skingpt4.checkpoints.identity import encoder_identity
from skingpt4.config.schema import Config
from skingpt4.model.build import build_encoder
from skingpt4.model.network import ImageEncoder
from skingpt4.model.projection import picture_shape
from skingpt4.records.archives import StoreError, read_bytes
from skingpt4.records.feature_store import (
    DTYPE,
    CachedFeatures,
    FeatureStore,
    FeatureWriter,
    StoreShape,
    is_complete,
    locked,
    require_space,
)
from skingpt4.records.images import MAX_BYTES, open_image, random_crop_box, to_tensor
from skingpt4.records.manifest import evenly_spread
from skingpt4.records.record import Record
from skingpt4.support.files import file_sha256
from skingpt4.training.distributed.team import Team

logger = logging.getLogger(__name__)

MAX_COUNTED = 5_000  # images whose features give the mean and covariance
MAX_ENCODED = 16  # images, or crops of them, that are encoded at once

# Row and random generator (None: no augmentation) to {"image": (3, h, w)} or {"queries": (q, d)}.
ImageSource = Callable[[int, "np.random.Generator | None"], dict[str, Tensor]]


def image_files(
    records: Sequence[Record],
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augment: bool,
    crops: int = 1,
    interpolation: str = "bicubic",
) -> ImageSource:
    """Images read from their files: a random crop if there is a generator, else the complete image; with tiles."""

    def load(row: int, rng: np.random.Generator | None) -> dict[str, Tensor]:
        image = open_image(records[row].image_path)
        box = random_crop_box(*image.size, rng) if augment and rng is not None else None
        return {"image": to_tensor(image, size, mean, std, box, crops, interpolation)}

    return load


def cached_queries(
    manifest: str | Path,
    records: Sequence[Record],
    config: Config,
    cache_dir: str | Path,
    get_encoder: Callable[[], ImageEncoder] | None = None,
    views: int = 1,
    team: Team | None = None,
) -> FeatureStore:
    """The queries of a manifest's images, from the cache, or computed and stored there.

    The store's folder is named after the encoder's identity, the manifest's hash and the views. If filling it is
    interrupted, the next call continues.

    Args:
        manifest: the file that `records` were read from.
        records: its records.
        config: names the encoder.
        cache_dir: the folder of all stores.
        get_encoder: returns the encoder when it is needed; by default it is built.
        views: 1 caches complete images, more that many random crops of each.
        team: the processes that make this call together.

    Raises:
        FeatureError: the disk is too small, read-only or not shared by the processes, or the store is damaged.
        ImageError: an image cannot be read.
    """
    picture = picture_shape(config)
    shape = StoreShape(len(records), views, picture.num_vectors, picture.width)
    kind = f"{encoder_identity(config)}-{views}x{shape.num_queries}-{DTYPE}"
    folder = Path(cache_dir) / kind / file_sha256(manifest)[:16]
    team = team or Team()
    with ExitStack() as stack:

        def begin() -> bool:
            if is_complete(folder):
                return False
            stack.enter_context(locked(folder))
            if is_complete(folder):  # another run has finished it while this one waited
                return False
            logger.warning("%s: caching features of %s", manifest, require_space(folder, shape))
            FeatureWriter.prepare(folder, shape)
            return True

        if team.by_first(begin):
            _fill(folder, shape, records, config, get_encoder or (lambda: build_encoder(config)), team)
            team.wait()
            team.by_first(lambda: FeatureWriter.finish(folder, shape))
    return FeatureStore(folder)


def cached_images(*stores: FeatureStore) -> ImageSource:
    """Images as rows of cached queries, one store after another; of several views one is drawn for each sample."""
    ends = np.cumsum([len(store) for store in stores])

    def load(row: int, rng: np.random.Generator | None) -> dict[str, Tensor]:
        number = int(np.searchsorted(ends, row, side="right"))
        store = stores[number]
        views = store.shape.num_views
        view = 0 if views == 1 or rng is None else int(rng.integers(views))
        return {"queries": store.view(row - int(ends[number]) + len(store), view).float()}

    return load


def moments(stores: Sequence[FeatureStore]) -> tuple[Tensor, Tensor]:
    """Mean (d,) and covariance (d, d), both fp64, of cached features: all vectors of each first view.

    Of more than MAX_COUNTED images, that many are taken, evenly spread.
    """
    width = stores[0].shape.width
    count, total, products = 0, torch.zeros(width).double(), torch.zeros(width, width).double()
    ends = np.cumsum([len(store) for store in stores])
    for place in evenly_spread(int(ends[-1]), MAX_COUNTED).tolist():
        number = int(np.searchsorted(ends, place, side="right"))
        store = stores[number]
        vectors = store.view(place - int(ends[number]) + len(store), 0).double()  # (q, d)
        count += len(vectors)
        total += vectors.sum(0)
        products += vectors.T @ vectors
    mean = total / count
    return mean, products / count - torch.outer(mean, mean)


def _fill(
    folder: Path,
    shape: StoreShape,
    records: Sequence[Record],
    config: Config,
    get_encoder: Callable[[], ImageEncoder],
    team: Team,
) -> None:
    """Write those of the missing rows that are this process's."""
    part = f", part {team.rank + 1} of {team.world}" if team.world > 1 else ""
    with FeatureWriter(folder, shape) as writer:
        rows = writer.missing(team.rank, team.world)
        others = [path for path in sorted(folder.parent.iterdir()) if path != folder]
        if cached := CachedFeatures.of(others):
            rows = _copy(writer, rows, records, cached)
        if not rows:
            return
        encoder = get_encoder()
        vision = encoder.vision_encoder
        views = _Views(
            records,
            rows,
            shape.num_views,
            config.vision.image_size,
            vision.mean,
            vision.std,
            config.vision.crops,
            vision.interpolation,
        )
        on_gpu = next(encoder.parameters()).device.type == "cuda"
        loader = DataLoader(
            views,
            batch_size=max(1, MAX_ENCODED // (shape.num_views * config.vision.crops)),
            collate_fn=list,
            num_workers=config.data.num_workers if on_gpu else 0,
        )
        with tqdm(
            total=len(rows), desc=f"encoding pictures{part}", unit="picture", disable=team.rank > 0
        ) as bar:
            for batch in loader:
                queries = encoder(torch.cat([pixels for _, _, pixels in batch])).cpu()
                bits = queries.half().view(torch.int16).numpy().reshape(len(batch), shape.num_views, -1)
                for (row, digest, _), features in zip(batch, bits, strict=True):
                    writer.write(row, digest, features)
                bar.update(len(batch))


def _copy(
    writer: FeatureWriter, rows: Sequence[int], records: Sequence[Record], cached: CachedFeatures
) -> list[int]:
    """Copy the rows that other stores have; returns the remaining ones."""
    remaining = []
    for row in tqdm(rows, desc="looking for cached pictures", unit="picture"):
        digest = hashlib.sha256(_image_bytes(records[row])).digest()
        features = cached.find(digest)
        if features is None:
            remaining.append(row)
        else:
            writer.write(row, digest, features)
    return remaining


def _image_bytes(record: Record) -> bytes:
    try:
        return read_bytes(record.image_path, MAX_BYTES)
    except (OSError, StoreError, ValueError):
        open_image(record.image_path)  # says in a sentence what is wrong
        raise


@dataclass
class _Views(Dataset):
    """The images of some rows: row, SHA-256 of the file, pixels (views, 3, h, w) or (views, crops, 3, h, w)."""

    records: Sequence[Record]
    rows: Sequence[int]
    num_views: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crops: int = 1
    interpolation: str = "bicubic"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[int, bytes, Tensor]:
        row = self.rows[number]
        data = _image_bytes(self.records[row])
        digest = hashlib.sha256(data).digest()
        image = open_image(data, str(self.records[row].image_path))
        boxes = [None] if self.num_views == 1 else crop_boxes(digest, image.size, self.num_views)
        pixels = [
            to_tensor(image, self.size, self.mean, self.std, box, self.crops, self.interpolation)
            for box in boxes
        ]
        return row, digest, torch.stack(pixels)


def crop_boxes(digest: bytes, size: tuple[int, int], count: int) -> list[tuple[float, float, float, float]]:
    """The random crops under which an image is cached, a function of its file's SHA-256 and their number.

    Args:
        digest: 32 bytes.
        size: width and height of the image.
        count: how many; the first ones do not depend on it.
    """
    words = np.frombuffer(digest, "<u4").tolist()
    return [random_crop_box(*size, np.random.default_rng([*words, view])) for view in range(count)]
