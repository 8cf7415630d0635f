"""Crops of the photographs that installed packages carry, so that a Q-Former sees more than drawings.

Only a reconstruction can be learnt from them: they have no concepts and no class. Half a dozen pictures become many
by crops of every size, turned, with other colours, blur and noise.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pywt.data
from matplotlib import cbook
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_image
from tqdm import tqdm

from skingpt4.support.files import file_sha256, write_text

SIZE = 224  # pixels a side of a crop
VERSION = 1


def _from_matplotlib(name: str) -> np.ndarray:
    with cbook.get_sample_data(name) as file:  # type: ignore[union-attr]
        return np.asarray(Image.open(file).convert("RGB"))


# name: (its pixels, (h,w,3) uint8 or grey (h,w); licence)
PHOTOGRAPHS: dict[str, tuple[Callable[[], np.ndarray], str]] = {
    "china": (lambda: load_sample_image("china.jpg"), "CC-BY-2.0"),
    "flower": (lambda: load_sample_image("flower.jpg"), "CC-BY-2.0"),
    "grace_hopper": (lambda: _from_matplotlib("grace_hopper.jpg"), "public domain"),
    "aero": (pywt.data.aero, "as PyWavelets"),
    "ascent": (pywt.data.ascent, "public domain"),
    "camera": (pywt.data.camera, "as PyWavelets"),
}


def write_crops(folder: Path, count: int, seed: int) -> Path:
    """Write `count` crops and their manifest, which comes last; those of an equal earlier call are reused.

    Args:
        folder: gets `images/` and `manifest.jsonl`.
        count: of crops; pictures take turns.
        seed: of everything random; crop i is a function of (seed, i).

    Returns:
        The manifest's path.
    """
    manifest, made_with = folder / "manifest.jsonl", folder / "crops.json"
    arguments = json.dumps({"count": count, "seed": seed, "version": VERSION})
    if manifest.is_file() and made_with.is_file() and made_with.read_text() == arguments:
        return manifest
    (folder / "images").mkdir(parents=True, exist_ok=True)
    pictures = {name: Image.fromarray(load()).convert("RGB") for name, (load, _) in PHOTOGRAPHS.items()}
    lines = []
    for index in tqdm(range(count), desc="crops of photographs", unit="picture"):
        name = list(pictures)[index % len(pictures)]
        path = folder / "images" / f"{index:06d}.jpg"
        crop, region = random_crop(pictures[name], np.random.default_rng((seed, index)))
        crop.save(path, quality=95)
        lines.append({
            "image": f"images/{path.name}", "sha256": file_sha256(path), "source": "photographs of packages",
            "split": "qformer", "case_id": f"{name}-{region}", "licence": PHOTOGRAPHS[name][1],
        })  # fmt: skip
    write_text(made_with, arguments)
    write_text(manifest, "".join(json.dumps(line) + "\n" for line in lines))
    return manifest


def random_crop(image: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, int]:
    """A square crop of a picture, of 5 to 70 % of its area, turned and flipped, its colours, blur and noise changed.

    Returns:
        The crop, SIZE pixels a side, and the quadrant (0 to 3) of the picture in which its centre lies.
    """
    width, height = image.size
    side = min(width, height, float(np.sqrt(rng.uniform(0.05, 0.7) * width * height)))
    x, y = rng.uniform(side / 2, width - side / 2), rng.uniform(side / 2, height - side / 2)
    box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    crop = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.7:  # the corners that a turn leaves empty are cut off
        crop = crop.rotate(rng.uniform(-180, 180), Image.Resampling.BICUBIC)
        inner = SIZE * 0.5 * (1 - 1 / np.sqrt(2))
        crop = crop.resize((SIZE, SIZE), Image.Resampling.BICUBIC, (inner, inner, SIZE - inner, SIZE - inner))
    if rng.random() < 0.3:
        crop = crop.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3)))
    pixels = np.asarray(crop, dtype=np.float64) / 255
    mixed = pixels @ (np.eye(3) + rng.uniform(-0.4, 0.4, (3, 3)))  # other colours, also of grey pictures
    pixels = np.clip(mixed * rng.uniform(0.6, 1.3, 3), 0, 1) ** rng.uniform(0.6, 1.6)
    pixels += rng.normal(0, rng.choice([0, 0.02, 0.05]), pixels.shape)
    quadrant = int(x > width / 2) + 2 * int(y > height / 2)
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8)), quadrant
