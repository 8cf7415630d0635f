"""Frozen features, computed once: the Q-Former's queries of every picture of a manifest, kept on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from skingpt4.config import Config
from skingpt4.datasets import PictureSource, Record, picture_files
from skingpt4.model import ImageEncoder, build_encoder, encoder_identity
from skingpt4.tensors import file_sha256


def encode_records(
    records: Sequence[Record], encoder: ImageEncoder, image_size: int, batch_size: int = 16, workers: int = 0
) -> Tensor:
    """Queries (n, q, d) fp32 of all records' whole pictures, with a progress bar."""
    vision = encoder.vision_encoder
    load = picture_files(records, image_size, vision.mean, vision.std, augment=False)
    loader = DataLoader(Pictures(load, len(records)), batch_size=batch_size, num_workers=workers)
    with tqdm(total=len(records), desc="encoding pictures", unit="picture") as bar:
        parts = []
        for image in loader:
            parts.append(encoder(image).cpu())
            bar.update(len(image))
    return torch.cat(parts)


class Pictures(torch.utils.data.Dataset):
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


def cached_queries(
    manifest: str | Path,
    records: Sequence[Record],
    config: Config,
    cache_dir: str | Path,
    get_encoder: Callable[[], ImageEncoder] | None = None,
) -> Tensor:
    """The queries (n, q, d) fp16 of a manifest, from the cache or computed and put there.

    The file's name is made of the encoder's identity and the manifest's hash; it appears only when complete.
    """
    name = f"{encoder_identity(config)}-{file_sha256(manifest)[:16]}.safetensors"
    path = Path(cache_dir) / name
    if not path.is_file():
        encoder = get_encoder() if get_encoder else build_encoder(config)
        queries = encode_records(records, encoder, config.vision.image_size).half()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        save_file({"queries": queries}, part)
        os.replace(part, path)
    with safe_open(path, framework="pt") as file:
        return file.get_tensor("queries")


def picture_queries(*parts: Tensor) -> PictureSource:
    """Pictures as rows of precomputed queries, one after another: each part (n, q, d), as its file maps it."""
    ends = np.cumsum([len(part) for part in parts])

    def load(row: int, rng: np.random.Generator | None) -> dict[str, Tensor]:
        del rng  # one view is kept per picture, so there is no crop to draw
        number = int(np.searchsorted(ends, row, side="right"))
        return {"queries": parts[number][row - int(ends[number])].float()}

    return load
