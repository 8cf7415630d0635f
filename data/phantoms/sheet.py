"""A contact sheet of phantoms: a row for every concept or class, a column for every skin type."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from data.phantoms import WARNING
from data.phantoms.render import DRAWN
from data.phantoms.scene import WHITE, choose_scene
from data.phantoms.splits import render_phantom
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS

DRAWN_CONCEPTS: tuple[str, ...] = tuple(c for c in CONCEPTS if c in DRAWN)


def contact_sheet(
    by: str,
    out: str | Path,
    seed: int = 0,
    columns: int = 6,
    tile: int = 86,
    only: Sequence[str] | None = None,
) -> Path:
    """Save a grid of phantoms (PNG or JPEG): one row per concept or class, columns are skin types I to VI."""
    known = DRAWN_CONCEPTS if by == "concept" else CLASSES
    names = list(only or known)
    for name in names:
        if name not in known:
            raise ValueError(f"unknown {by} {name!r}; known: {', '.join(known)}")
    blocks = 2 if len(names) > 20 else 1  # a long list goes in two blocks side by side
    rows, title, head, font = -(-len(names) // blocks), 126, 22, ImageFont.load_default(12)
    sheet = Image.new("RGB", (blocks * (title + columns * tile), head + rows * tile), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((6, 4), WARNING, "black", font)
    for k, name in enumerate(names):
        left, top = k // rows * (title + columns * tile), head + k % rows * tile
        label = name.replace("_", " ").replace("/", "/ ").replace("(", " (").split()
        draw.multiline_text((left + 6, top + 6), "\n".join(label), "black", font)
        for column, index in enumerate(_examples(by, name, seed, columns)):
            image = render_phantom(seed, "sheet", index, name if by == "class" else None).image
            scaled = Image.fromarray(image).resize((tile - 2, tile - 2), Image.Resampling.LANCZOS)
            sheet.paste(scaled, (left + title + column * tile, top))
    sheet.save(out, quality=70, optimize=True)
    return Path(out)


def _examples(by: str, name: str, seed: int, count: int) -> list[int]:
    """Indices of phantoms of a class or with a concept (and few others), skin types I-VI in turn."""
    tones = (3, 4, 5, 6) if name == WHITE else (1, 2, 3, 4, 5, 6)
    indices: list[int] = []
    start = 400 * (CONCEPTS + CLASSES).index(name)  # rows of a sheet do not repeat each other's images
    for index in range(start, start + 20000):
        scene = choose_scene(seed, "sheet", index, name if by == "class" else None)
        fits = by == "class" or (name in scene.concepts and len(scene.concepts) <= 4)
        if fits and scene.tone == tones[len(indices) % len(tones)]:
            indices.append(index)
        if len(indices) == count:
            break
    return indices
