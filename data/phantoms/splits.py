"""Skin phantoms: a bundled, freely redistributable default data set of drawn skin with labelled lesions.

Phantoms are drawings with no clinical meaning. They stand in for patient photographs, which may not be
redistributed: they exercise every step of training and evaluation with pictures whose concepts are known.
`data.phantoms.scene` decides what to draw, `data.phantoms.render` draws it; this file writes it to disk.

    python -m data.phantoms.splits render --out-dir runs/phantoms --split train --count 1000 --seed 0
    python -m data.phantoms.splits sheet --by concept --out sheet.jpg
"""

import argparse
import hashlib
import json
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from data.phantoms.render import DRAWN, draw_scene
from data.phantoms.scene import WHITE, choose_scene, generators
from skingpt4.support.files import write_text
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS

RENDERER_VERSION = 2
SERIAL_BELOW = 200  # a pool costs more to start than so few pictures cost to draw
WARNING = "Phantoms are drawings with no clinical meaning."
DRAWN_CONCEPTS: tuple[str, ...] = tuple(c for c in CONCEPTS if c in DRAWN)

DISEASES: dict[str, str] = {
    "acne_and_rosacea": "acne",
    "malignant_lesions": "basal cell carcinoma",
    "dermatitis": "eczema",
    "bullous_disease": "bullous pemphigoid",
    "bacterial_infections": "impetigo",
    "light_diseases": "melasma",
    "connective_tissue_diseases": "lupus erythematosus",
    "benign_tumors": "seborrheic keratosis",
    "melanoma_nevi_moles": "melanoma",
    "fungal_infections": "ringworm",
    "psoriasis_and_lichen_planus": "psoriasis",
    "infestations_and_bites": "scabies",
    "urticaria_hives": "hives",
    "vascular_tumors": "hemangioma",
    "herpes": "herpes",
}


@dataclass(frozen=True)
class Phantom:
    """A drawn picture with its labels: `image` (h,w,3) uint8, `mask` (h,w) uint8 with 1 on lesions."""

    image: np.ndarray = field(repr=False)
    mask: np.ndarray = field(repr=False)
    concepts: tuple[str, ...]
    class_name: str
    disease: str
    fitzpatrick: int
    body_site: str
    note: str


# --- records and files ---------------------------------------------------------------------------------


def render_phantom(
    seed: int, split: str, index: int, class_name: str | None = None, size: int = 224
) -> Phantom:
    """Draw phantom `index` of `split`: a pure function of its arguments, image (size,size,3) uint8.

    Without `class_name` classes rotate with the index, so that a split is balanced.
    """
    if size < 32:
        raise ValueError(f"size must be 32 pixels or more, got {size}")
    scene = choose_scene(seed, split, index, class_name)
    rng = generators(seed, split, index)[1]
    image, mask = draw_scene(
        rng, size, scene.tone, scene.site, scene.concepts, scene.arrangement, scene.style
    )
    name = scene.class_name
    return Phantom(image, mask, scene.concepts, name, DISEASES[name], scene.tone, scene.site, scene.note)


@dataclass(frozen=True)
class SplitParams:
    """Everything that decides the bytes of a written split."""

    split: str
    count: int
    seed: int
    size: int
    known_concepts: float
    known_notes: float
    masks: bool
    renderer_version: int = RENDERER_VERSION


def _write_record(index: int, folder: Path, params: SplitParams) -> dict:
    """Render one record, save its files and return its line of the manifest."""
    phantom = render_phantom(params.seed, params.split, index, size=params.size)
    path = folder / "images" / f"{index:06d}.jpg"
    Image.fromarray(phantom.image).save(path, quality=95)
    if params.masks:
        Image.fromarray(phantom.mask * 255).save(folder / "masks" / f"{index:06d}.png")
    draw = generators(params.seed, params.split, index)[2]
    knows_concepts, knows_note = draw.random() < params.known_concepts, draw.random() < params.known_notes
    return {
        "image": f"images/{path.name}",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "source": "phantoms",
        "split": params.split,
        "concepts": list(phantom.concepts) if knows_concepts else None,
        "disease": phantom.disease,
        "class": phantom.class_name,
        "fitzpatrick": phantom.fitzpatrick,
        "body_site": phantom.body_site,
        "note": phantom.note if knows_note else None,
        "case_id": f"phantom-{params.split}-{index:06d}",
        "licence": "Apache-2.0",
    }


def _records(folder: Path, params: SplitParams) -> Iterator[dict]:
    """All records of a split in order, over a pool of processes when the split is worth one."""
    write = partial(_write_record, folder=folder, params=params)
    if params.count < SERIAL_BELOW:
        yield from map(write, range(params.count))
        return
    with multiprocessing.get_context("spawn").Pool() as pool:  # spawn: the same on every system
        yield from pool.imap(write, range(params.count), chunksize=16)


def write_split(
    out_dir: str | Path, split: str, count: int, seed: int, size: int = 224, known_concepts: float = 1.0,
    known_notes: float = 1.0, masks: bool = False,
) -> Path:  # fmt: skip
    """Write `count` phantoms under out_dir/split and return the path of the manifest.

    The manifest comes last and at once, so a manifest means a whole split; one made with the same parameters
    is reused. `known_concepts` and `known_notes` (0..1) are the shares of records that keep theirs,
    others get null.
    """
    if count < 0 or not (0 <= known_concepts <= 1 and 0 <= known_notes <= 1):
        raise ValueError("count must not be negative, known_concepts and known_notes must lie in 0..1")
    if not split.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"split must be a plain name of letters, digits, - and _, got {split!r}")
    params = SplitParams(split, count, seed, size, float(known_concepts), float(known_notes), masks)
    folder = Path(out_dir) / split
    manifest, stored = folder / "manifest.jsonl", folder / "params.json"
    wanted = json.dumps(asdict(params), indent=1)
    if manifest.exists() and stored.exists() and stored.read_text(encoding="utf-8") == wanted:
        return manifest
    (folder / "images").mkdir(parents=True, exist_ok=True)
    if masks:
        (folder / "masks").mkdir(exist_ok=True)
    manifest.unlink(missing_ok=True)
    bar = tqdm(_records(folder, params), total=count, desc=f"phantoms {split}", unit="img")
    lines = [json.dumps(record, ensure_ascii=False) for record in bar]
    write_text(stored, wanted)
    write_text(manifest, "".join(line + "\n" for line in lines))
    return manifest


# --- contact sheets ------------------------------------------------------------------------------------


def contact_sheet(
    by: str,
    out: str | Path,
    seed: int = 0,
    columns: int = 6,
    tile: int = 86,
    only: Sequence[str] | None = None,
) -> Path:
    """Save a grid of phantoms (PNG or JPEG): a row each concept or class, columns are skin types I to VI."""
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
            picture = Image.fromarray(image).resize((tile - 2, tile - 2), Image.Resampling.LANCZOS)
            sheet.paste(picture, (left + title + column * tile, top))
    sheet.save(out, quality=70, optimize=True)
    return Path(out)


def _examples(by: str, name: str, seed: int, count: int) -> list[int]:
    """Indices of phantoms of a class or with a concept (and few others), skin types I-VI in turn."""
    tones = (3, 4, 5, 6) if name == WHITE else (1, 2, 3, 4, 5, 6)
    found: list[int] = []
    start = 400 * (CONCEPTS + CLASSES).index(name)  # rows of a sheet do not repeat each other's pictures
    for index in range(start, start + 20000):
        scene = choose_scene(seed, "sheet", index, name if by == "class" else None)
        fits = by == "class" or (name in scene.concepts and len(scene.concepts) <= 4)
        if fits and scene.tone == tones[len(found) % len(tones)]:
            found.append(index)
        if len(found) == count:
            break
    return found


# --- command line --------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    text = f"Render skin phantoms, the bundled default data. {WARNING}"
    parser = argparse.ArgumentParser(prog="python -m data.phantoms.splits", description=text)
    commands = parser.add_subparsers(dest="command", required=True)
    render = commands.add_parser("render", help="write a split with manifest.jsonl", description=text)
    render.add_argument("--out-dir", type=Path, required=True, help="folder that gets SPLIT/manifest.jsonl")
    render.add_argument("--split", required=True, help="name of the split, for example train")
    render.add_argument("--count", type=int, required=True, help="number of phantoms")
    render.add_argument("--seed", type=int, default=0, help="seed of the data set (default 0)")
    render.add_argument("--size", type=int, default=224, help="width and height in pixels (default 224)")
    render.add_argument(
        "--known-concepts", type=float, default=1.0, help="share of records with concepts, 0..1"
    )
    render.add_argument("--known-notes", type=float, default=1.0, help="share of records with a note, 0..1")
    render.add_argument("--masks", action="store_true", help="save lesion masks too")
    sheet = commands.add_parser(
        "sheet", help="save a picture grid", description=f"Save a picture grid. {WARNING}"
    )
    sheet.add_argument("--by", choices=("concept", "class"), required=True, help="what the rows are")
    sheet.add_argument("--out", type=Path, required=True, help="picture file, .png or .jpg")
    sheet.add_argument("--seed", type=int, default=0, help="seed of the phantoms (default 0)")
    sheet.add_argument("--only", nargs="+", metavar="NAME", help="only these concepts or classes")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        if args.command == "render":
            path = write_split(
                args.out_dir,
                args.split,
                args.count,
                args.seed,
                args.size,
                args.known_concepts,
                args.known_notes,
                args.masks,
            )
        else:
            path = contact_sheet(args.by, args.out, args.seed, only=args.only)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{path}  ({WARNING})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
