"""Fixed features of pictures for probes, cached on disk: our encoder's tokens or queries, or a tower's vectors."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from eval.arms.models.dual_encoders import DualEncoder, OpenClip, load_dual_encoder, require_towers
from eval.arms.models.loading import ModelFiles, Placement
from skingpt4.checkpoints.identity import encoder_identity
from skingpt4.config.schema import Config
from skingpt4.model.build import build_encoder
from skingpt4.model.network import ImageEncoder
from skingpt4.model.precision import half_precision
from skingpt4.records.feature_store import (
    FeatureStore,
    FeatureWriter,
    StoreShape,
    is_complete,
    locked,
    require_space,
)
from skingpt4.records.images import open_image, read_picture, to_tensor
from skingpt4.records.record import Record
from skingpt4.support.files import file_sha256

logger = logging.getLogger(__name__)

TOKENS, QUERIES = "tokens", "queries"
MAX_ENCODED = 16  # pictures that are encoded at once


class FeatureSource(Protocol):
    """A map from pictures to vectors.

    `identity` names everything that the vectors depend on; it is part of a folder's name.
    """

    identity: str

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """(n, d) fp32 on the CPU."""
        ...


class EncoderFeatures:
    """The mean of our vision encoder's tokens, or of the Q-Former's queries.

    Args:
        config: names the encoder.
        kind: TOKENS or QUERIES.
        device: where it computes, unless `encoder.device` says otherwise.
    """

    def __init__(self, config: Config, kind: str, device: torch.device) -> None:
        self.config, self.kind, self.device = config, kind, device
        self.identity = f"{encoder_identity(config)}-{kind}"
        self._encoder: ImageEncoder | None = None

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """(n, d) fp32 on the CPU."""
        if self._encoder is None:
            self._encoder = build_encoder(self.config, self.device)
        vision = self._encoder.vision_encoder
        pixels = torch.stack(
            [
                to_tensor(
                    image, vision.image_size, vision.mean, vision.std, interpolation=vision.interpolation
                )
                for image in images
            ]
        )
        if self.kind == QUERIES:
            return self._encoder(pixels).mean(dim=1).cpu()
        device = next(self._encoder.parameters()).device
        with half_precision(device, self._encoder.precision):
            return vision(pixels.to(device)).float().mean(dim=1).cpu()


class TowerFeatures:
    """The unit vectors of a contrastive model's image tower.

    Raises:
        RespondentGone: it has none.
    """

    def __init__(self, files: ModelFiles, place: Placement) -> None:
        require_towers(files, place)
        self.files, self.place = files, place
        self.identity = f"tower-{files.sha256[:16]}-{place.facts()['precision']}"
        self._towers: DualEncoder | OpenClip | None = None

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """(n, d) fp32 on the CPU."""
        if self._towers is None:
            self._towers = load_dual_encoder(self.files, self.place)
        return self._towers.images(images)


def stored_precision(features: Tensor) -> np.ndarray:
    """Features (n, d) as they come back from the cache, which holds fp16: those of the cases must be the same."""
    return features.half().float().numpy()


def cached_features(
    source: FeatureSource, manifest: str | Path, records: Sequence[Record], cache_dir: str | Path
) -> np.ndarray:
    """The features (n, d) of a manifest's pictures, from the cache, or computed and stored there.

    If that is interrupted, the next call continues.

    Args:
        source: makes them.
        manifest: the file that `records` were read from.
        records: its records.
        cache_dir: the folder of all stores.

    Raises:
        FeatureError: the disk is too small or read-only, or the store is damaged.
        ImageError: a picture cannot be read.
    """
    folder = Path(cache_dir) / f"probe-{source.identity}" / file_sha256(manifest)[:16]
    if not is_complete(folder):
        with ExitStack() as stack:
            stack.enter_context(locked(folder))
            if not is_complete(folder):  # another run may have finished it while this one waited
                _fill(source, folder, manifest, records)
    store = FeatureStore(folder)
    return torch.stack([store.view(row, 0)[0].float() for row in range(len(store))]).numpy()


def _fill(source: FeatureSource, folder: Path, manifest: str | Path, records: Sequence[Record]) -> None:
    width = source([_opened(records[0])[1]]).shape[1]
    shape = StoreShape(len(records), 1, 1, width)
    logger.info("%s: caching features of %s", manifest, require_space(folder, shape))
    FeatureWriter.prepare(folder, shape)
    with FeatureWriter(folder, shape) as writer:
        rows = writer.missing()
        with tqdm(total=len(rows), desc="encoding pictures", unit="picture") as bar:
            for start in range(0, len(rows), MAX_ENCODED):
                batch = rows[start : start + MAX_ENCODED]
                opened = [_opened(records[row]) for row in batch]
                bits = source([image for _, image in opened]).half().contiguous().view(torch.int16).numpy()
                for row, (digest, _), features in zip(batch, opened, bits, strict=True):
                    writer.write(row, digest, features[None])
                bar.update(len(batch))
    FeatureWriter.finish(folder, shape)


def _opened(record: Record) -> tuple[bytes, Image.Image]:
    """SHA-256 of a picture's file, and the picture."""
    name = str(record.image_path)
    data = read_picture(record.image_path, name)
    return hashlib.sha256(data).digest(), open_image(data, name)
