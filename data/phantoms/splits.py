"""Skin phantoms: a bundled, freely redistributable default data set of drawn skin with labelled lesions.

Phantoms are drawings with no clinical meaning. They replace patient photographs, which may not be redistributed: they
exercise every step of training and evaluation with images whose concepts are known. `data.phantoms.scene` decides
what to draw, `data.phantoms.render` draws it, and this file writes it to disk.

    python -m data.phantoms render --out-dir runs/phantoms --split train --count 1000 --seed 0
    python -m data.phantoms sheet --by concept --out sheet.jpg
"""

import hashlib
import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.phantoms.notes import write_caption, write_dialogue
from data.phantoms.render import draw_scene
from data.phantoms.scene import choose_scene, generators
from skingpt4.support.files import write_text

RENDERER_VERSION = 2
SERIAL_BELOW = 200  # starting a pool costs more than drawing so few images

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
    """A drawn image with its labels: `image` (h,w,3) uint8, `mask` (h,w) uint8 with 1 on lesions."""

    image: np.ndarray = field(repr=False)
    mask: np.ndarray = field(repr=False)
    concepts: tuple[str, ...]
    class_name: str
    disease: str
    fitzpatrick: int
    body_site: str
    note: str


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
    image, mask = draw_scene(rng, scene, size)
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
    captions: bool = False
    dialogues: bool = False
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
        **_words(index, params),
        "case_id": f"phantom-{params.split}-{index:06d}",
        "licence": "Apache-2.0",
    }


def _words(index: int, params: SplitParams) -> dict:
    """The caption and the dialogue of a record, as far as they are wanted."""
    scene = choose_scene(params.seed, params.split, index)
    shown = scene.concepts, scene.arrangement, scene.site, scene.tone
    words: dict = {}
    if params.captions:
        words["caption"] = write_caption(generators(params.seed, params.split, index)[3], *shown)
    if params.dialogues:
        turns = write_dialogue(generators(params.seed, params.split, index)[3], *shown)
        words["turns"] = [{"question": question, "answer": answer} for question, answer in turns]
    return words


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
    known_notes: float = 1.0, masks: bool = False, captions: bool = False, dialogues: bool = False,
) -> Path:  # fmt: skip
    """Write `count` phantoms under out_dir/split and return the path of the manifest.

    The manifest comes last, so its existence means a complete split; a split made with the same parameters is reused.
    `known_concepts` and `known_notes` (0..1) are the fractions of records that have theirs; the others get null.
    `captions` adds what each drawing shows, `dialogues` questions about it with answers.
    """
    if count < 0 or not (0 <= known_concepts <= 1 and 0 <= known_notes <= 1):
        raise ValueError("count must not be negative, known_concepts and known_notes must lie in 0..1")
    if not split.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"split must be a plain name of letters, digits, - and _, got {split!r}")
    shares = float(known_concepts), float(known_notes)
    params = SplitParams(split, count, seed, size, *shares, masks, captions, dialogues)
    folder = Path(out_dir) / split
    manifest, stored = folder / "manifest.jsonl", folder / "params.json"
    values = asdict(params)
    for added, wanted in (("captions", captions), ("dialogues", dialogues)):
        if not wanted:
            del values[added]  # splits written before there were any are the same
    own = json.dumps(values, indent=1)
    if manifest.exists() and stored.exists() and stored.read_text(encoding="utf-8") == own:
        return manifest
    (folder / "images").mkdir(parents=True, exist_ok=True)
    if masks:
        (folder / "masks").mkdir(exist_ok=True)
    manifest.unlink(missing_ok=True)
    bar = tqdm(_records(folder, params), total=count, desc=f"phantoms {split}", unit="img")
    lines = [json.dumps(record, ensure_ascii=False) for record in bar]
    write_text(stored, own)
    write_text(manifest, "".join(line + "\n" for line in lines))
    return manifest
