"""A sheet of nearly equal pairs of images, to judge the distance between perceptual hashes by eye."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from skingpt4.records.comparing import duplicates
from skingpt4.records.comparing.identity import Keys
from skingpt4.records.images import open_image

SIDE, COLUMNS, PAIRS = 160, 4, 24
GAP, CAPTION = 12, 18


def draw_pairs(keys: Keys, distance: int, path: Path) -> str:
    """Draw the PAIRS pairs that differ in the most bits (the doubtful ones), the farthest first.

    Returns:
        A sentence that says what was drawn; without pairs nothing is.

    Raises:
        ImageError: an image of a pair cannot be opened.
        OSError: the file cannot be written.
    """
    hashes, places = duplicates.perceptual_hashes(keys)
    if not len(hashes):
        return "no record has a perceptual hash, or a picture to compute it from; no pair can be drawn"
    pairs = duplicates.near_pairs(hashes, distance)
    if not len(pairs):
        return f"no pair of different hashes within {distance} bits; no picture is drawn"
    bits = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
    chosen = np.argsort(-bits.astype(int), kind="stable")[:PAIRS]
    record_of = np.full(len(hashes), -1)
    record_of[places[places >= 0]] = np.flatnonzero(places >= 0)
    width, height = 2 * SIDE + GAP, SIDE + CAPTION + GAP
    sheet = Image.new("RGB", (COLUMNS * width + GAP, -(-len(chosen) // COLUMNS) * height + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for number, pair in enumerate(chosen):
        left, top = GAP + number % COLUMNS * width, GAP + number // COLUMNS * height
        for side, row in enumerate(record_of[pairs[pair]]):
            image = ImageOps.pad(open_image(keys.records.image_path(int(row))), (SIDE, SIDE), color="white")
            sheet.paste(image, (left + side * SIDE, top))
        pen.text((left, top + SIDE + 2), f"{bits[pair]} bits", fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return f"{len(pairs)} pairs within {distance} bits; the {len(chosen)} farthest are drawn in {path}"
