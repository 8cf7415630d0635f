"""A picture of the nearly equal pairs of a manifest, so that people can judge the distance by eye."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from data import duplicates
from skingpt4.images import open_image
from skingpt4.manifests import Manifest

SIDE, COLUMNS, PAIRS = 160, 4, 24
_GAP, _CAPTION = 12, 18


def draw(records: Manifest, distance: int, path: Path) -> None:
    """Draw the PAIRS pairs that differ in the most bits (the doubtful ones), the farthest first.

    Raises:
        ImageError: a picture of a pair cannot be opened.
        OSError: the file cannot be written.
    """
    hashes, places = duplicates.perceptual_hashes(records)
    pairs = duplicates.near_pairs(hashes, distance)
    if not len(pairs):
        print(f"no pair of different hashes within {distance} bits; no picture is drawn")
        return
    bits = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
    chosen = np.argsort(-bits.astype(int), kind="stable")[:PAIRS]
    record_of = np.full(len(hashes), -1)
    record_of[places[places >= 0]] = np.flatnonzero(places >= 0)
    width, height = 2 * SIDE + _GAP, SIDE + _CAPTION + _GAP
    sheet = Image.new("RGB", (COLUMNS * width + _GAP, -(-len(chosen) // COLUMNS) * height + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for number, pair in enumerate(chosen):
        left, top = _GAP + number % COLUMNS * width, _GAP + number // COLUMNS * height
        for side, row in enumerate(record_of[pairs[pair]]):
            picture = ImageOps.pad(open_image(records.image_path(int(row))), (SIDE, SIDE), color="white")
            sheet.paste(picture, (left + side * SIDE, top))
        pen.text((left, top + SIDE + 2), f"{bits[pair]} bits", fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    print(f"{len(pairs)} pairs within {distance} bits; the {len(chosen)} farthest are drawn in {path}")
