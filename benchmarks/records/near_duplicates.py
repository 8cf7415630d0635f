"""How many altered copies of an image a perceptual hash finds, and how many different images it confuses.

    python -m data.phantoms render --out-dir runs/near --split cal --count 600
    python -m benchmarks near-duplicates runs/near/cal/manifest.jsonl

Phantoms are drawings; photographs of one body site may be more similar. So look at the pairs of your own data
(`python -m data.split ... --pairs`) before trusting a distance.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance
from scipy.stats import binomtest
from tqdm import tqdm

from benchmarks.harness.results import about, write
from skingpt4.records.comparing.hashes import perceptual_hash
from skingpt4.records.images import open_image
from skingpt4.records.manifest import read_manifest
from skingpt4.support.errors import reported

DISTANCES = (0, 2, 4, 6, 8, 10, 12)


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def _crop(image: Image.Image, fraction: float) -> Image.Image:
    width, height = image.size
    box = (width * fraction, height * fraction, width * (1 - fraction), height * (1 - fraction))
    return image.crop(tuple(round(side) for side in box))  # type: ignore[arg-type]


def _label(image: Image.Image) -> Image.Image:
    marked = image.copy()
    marked.paste((255, 255, 255), (0, round(image.height * 0.93), image.width // 3, image.height))
    return marked


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG quality 50": lambda i: _jpeg(i, 50),
    "JPEG quality 20": lambda i: _jpeg(i, 20),
    "a quarter of the size": lambda i: i.resize((i.width // 4, i.height // 4)),
    "20 % brighter": lambda i: ImageEnhance.Brightness(i).enhance(1.2),
    "20 % less contrast": lambda i: ImageEnhance.Contrast(i).enhance(0.8),
    "grey": lambda i: i.convert("L"),
    "2 % cut off each side": lambda i: _crop(i, 0.02),
    "5 % cut off each side": lambda i: _crop(i, 0.05),
    "a white label in a corner": _label,
    "mirrored": lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def _hash(image: Image.Image) -> int:
    return int(perceptual_hash(image), 16)


def measure(images: list[Image.Image]) -> dict[str, object]:
    """The fraction of copies within each distance, and the pairs of different images within it."""
    own = np.array([_hash(image) for image in images], dtype=np.uint64)
    copies = {}
    for name, change in tqdm(CHANGES.items(), desc="changes"):
        changed = np.array([_hash(change(image)) for image in images], dtype=np.uint64)
        bits = np.bitwise_count(own ^ changed)
        copies[name] = {str(d): round(float((bits <= d).mean()), 4) for d in DISTANCES}
    bits = np.bitwise_count(own[:, None] ^ own[None])[np.triu_indices(len(own), 1)]
    confused = {
        str(d): {
            "pairs": int((bits <= d).sum()),
            "rate_below": float(
                binomtest(int((bits <= d).sum()), len(bits)).proportion_ci(method="wilson").high
            ),
        }
        for d in DISTANCES
    }
    return {
        "pictures": len(images),
        "pairs": len(bits),
        "copies_found": copies,
        "different_confused": confused,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks near-duplicates", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/near_duplicates.json"))
    args = parser.parse_args(argv)
    with reported() as status:
        result = measure([open_image(record.image_path) for record in read_manifest(args.manifest)])
        print(write({**about(["near-duplicates", str(args.manifest)]), **result}, args.out).read_text())
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
