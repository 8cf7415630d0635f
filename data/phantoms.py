"""Skin phantoms: a bundled, freely redistributable default data set of drawn skin with labelled lesions.

Phantoms are drawings with no clinical meaning. They stand in for patient photographs, which may not be
redistributed: they exercise every step of training and evaluation with pictures whose concepts are known.
`data.phantom_render` draws; this file decides what to draw, words the note and writes the files.

    python -m data.phantoms render --out-dir runs/phantoms --split train --count 1000 --seed 0
    python -m data.phantoms sheet --by concept --out sheet.jpg
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from data.phantom_render import DRAWN, EXCLUDES, FLAT, NEEDS, PIGMENTS, SHAPES, draw_scene
from skingpt4.taxonomy import CLASSES, CONCEPTS

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

RED, BROWN, WHITE, WARTY = (
    "Erythema",
    "Brown(Hyperpigmentation)",
    "White(Hypopigmentation)",
    "Warty/Papillomatous",
)
PURPURA = "Purpura/Petechiae"


@dataclass(frozen=True)
class Look:
    """One way a class presents: probability of each concept, arrangements and sites to choose from, style."""

    weight: float
    concepts: dict[str, float]
    arrangements: tuple[str, ...]
    sites: tuple[str, ...]
    style: str = "plain"


TRUNK, LIMBS = ("chest", "back", "abdomen"), ("forearm", "thigh", "lower leg")
ALL = ("face", "neck", *TRUNK, *LIMBS, "hand", "foot")
HEAD = ("face", "face", "scalp", "neck")

# Each class overlaps with its clinical mimics, so that concepts help but do not decide; arrangement, site and
# style of the outline tell some of them apart, as they do in the clinic.
LOOKS: dict[str, tuple[Look, ...]] = {
    "acne_and_rosacea": (
        Look(0.7, {"Papule": 0.9, RED: 0.7, "Pustule": 0.5, "Comedo": 0.4, "Scar": 0.25, "Crust": 0.1},
             ("many", "many", "few"), ("face", "face", "face", "back")),
        Look(0.3, {"Papule": 0.85, RED: 0.9, "Pustule": 0.4, "Telangiectasia": 0.35},
             ("many", "clustered"), ("face",)),
    ),
    "malignant_lesions": (
        Look(0.6, {"Nodule": 0.9, "Papule": 0.1, "Dome-shaped": 0.45, "Translucent": 0.45,
                   "Telangiectasia": 0.45,
                   "Ulcer": 0.3, "Crust": 0.25, RED: 0.4, BROWN: 0.12, "Black": 0.08},
             ("single",), HEAD),
        Look(0.4, {"Plaque": 1, RED: 0.85, "Scale": 0.4, "Crust": 0.4, "Ulcer": 0.4, "Telangiectasia": 0.25},
             ("single",), (*HEAD, "back"), "jagged"),
    ),
    "dermatitis": (
        Look(0.45, {"Patch": 1, RED: 0.95, "Scale": 0.5, "Excoriation": 0.3, "Xerosis": 0.25, "Crust": 0.2,
                    "Fissure": 0.12, "Exudate": 0.2},
             ("few", "single"), ("neck", "hand", *LIMBS), "ill-defined"),
        Look(0.4, {"Plaque": 1, RED: 0.9, "Scale": 0.55, "Lichenification": 0.35, "Excoriation": 0.25,
                   "Crust": 0.2, "Fissure": 0.1},
             ("few", "single"), ("neck", "hand", *LIMBS), "ill-defined"),
        Look(0.15, {"Papule": 0.8, "Vesicle": 0.4, RED: 0.95, "Excoriation": 0.5, "Crust": 0.3,
                    "Exudate": 0.15},
             ("clustered", "many"), ("hand", "forearm")),
    ),
    "bullous_disease": (
        Look(0.75, {"Bulla": 0.7, "Vesicle": 0.45, "Erosion": 0.45, "Crust": 0.4, RED: 0.6},
             ("few", "few", "many"), (*TRUNK, *LIMBS)),
        Look(0.25, {"Erosion": 1, "Crust": 0.6, RED: 0.75, "Bulla": 0.2, "Wheal": 0.1},
             ("few",), (*TRUNK, *LIMBS)),
    ),
    "bacterial_infections": (
        Look(0.6, {"Patch": 0.45, "Erosion": 0.45, "Crust": 1, "Yellow": 0.5, RED: 0.75, "Pustule": 0.3,
                   "Exudate": 0.2, "Vesicle": 0.1},
             ("few", "single", "few"), ("face", "face", "neck", "forearm")),
        Look(0.4, {"Pustule": 0.9, "Papule": 0.5, RED: 0.85, "Crust": 0.4, "Yellow": 0.15, "Bulla": 0.15},
             ("few",), (*TRUNK, *LIMBS)),
    ),
    "light_diseases": (
        Look(0.55, {"Patch": 1, BROWN: 0.95, "Macule": 0.2, RED: 0.15, "Telangiectasia": 0.15, "Xerosis": 0.1},
             ("few", "single", "few"), ("face", "face", "face", "neck"), "ill-defined"),
        Look(0.25, {"Macule": 1, BROWN: 0.85, WHITE: 0.15, "Xerosis": 0.2, "Patch": 0.15},
             ("many",), ("face", "hand", "forearm", "chest")),
        Look(0.2, {"Patch": 0.85, WHITE: 1, "Macule": 0.3, "Xerosis": 0.12},
             ("few", "many"), ("face", "neck", *LIMBS)),
    ),
    "connective_tissue_diseases": (
        Look(0.6, {"Plaque": 1, RED: 0.9, "Scale": 0.65, "Atrophy": 0.35, "Telangiectasia": 0.3,
                   BROWN: 0.1, "Crust": 0.1},
             ("few", "few", "single"), HEAD),
        Look(0.4, {"Patch": 1, RED: 0.95, "Scale": 0.4, "Telangiectasia": 0.3, "Purple": 0.12, PURPURA: 0.25,
                   "Atrophy": 0.2},
             ("few", "single"), ("face", "face", "chest"), "jagged"),
    ),
    "benign_tumors": (
        Look(0.6, {"Plaque": 0.6, "Papule": 0.5, BROWN: 0.8, WARTY: 0.5, "Black": 0.15, "Scale": 0.15,
                   RED: 0.1},
             ("single", "few"), ("face", "neck", *TRUNK, *TRUNK), "sharp"),
        Look(0.4, {"Papule": 0.7, "Nodule": 0.4, "Dome-shaped": 0.7, BROWN: 0.25, "Umbilicated": 0.25,
                   "Yellow": 0.2, "Flat topped": 0.7, RED: 0.2},
             ("single", "few"), ("face", "neck", *TRUNK), "sharp"),
    ),
    "melanoma_nevi_moles": (
        Look(0.6, {"Patch": 0.4, "Plaque": 0.6, BROWN: 0.85, "Black": 0.55, "Blue": 0.25, WHITE: 0.1,
                   RED: 0.15,
                   "Ulcer": 0.1, "Scale": 0.08},
             ("single",), ("back", "lower leg", "forearm", "foot", "chest"), "jagged"),
        Look(0.2, {"Nodule": 1, "Black": 0.7, BROWN: 0.4, "Blue": 0.4, "Ulcer": 0.25, "Crust": 0.2,
                   "Dome-shaped": 0.2},
             ("single",), ("back", "lower leg", "foot")),
        Look(0.2, {"Papule": 0.6, "Macule": 0.4, BROWN: 0.9, "Dome-shaped": 0.4, "Black": 0.15},
             ("single",), ("back", "chest", "forearm")),
    ),
    "fungal_infections": (
        Look(0.8, {"Plaque": 0.7, "Patch": 0.35, RED: 0.95, "Scale": 0.7, "Papule": 0.08, "Pustule": 0.12,
                   BROWN: 0.1, "Excoriation": 0.15, "Crust": 0.1},
             ("annular",), (*TRUNK, *LIMBS, "neck")),
        Look(0.2, {"Patch": 1, RED: 0.85, "Scale": 0.75, "Fissure": 0.2, "Xerosis": 0.2},
             ("few", "single"), ("foot",)),
    ),
    "psoriasis_and_lichen_planus": (
        Look(0.8, {"Plaque": 0.95, "Patch": 0.05, RED: 0.95, "Scale": 0.75, "Fissure": 0.12,
                   "Excoriation": 0.15,
                   "Lichenification": 0.15, "Xerosis": 0.15, "Crust": 0.15},
             ("many", "many", "few"), ("forearm", "lower leg", "back", "abdomen"), "sharp"),
        Look(0.2, {"Papule": 1, RED: 0.9, "Scale": 0.65, "Purple": 0.2, "Flat topped": 0.5},
             ("many",), ("forearm", *TRUNK)),
    ),
    "infestations_and_bites": (
        Look(0.7, {"Papule": 0.95, RED: 0.65, "Excoriation": 0.45, "Crust": 0.35, "Burrow": 0.3,
                   "Vesicle": 0.15,
                   "Pustule": 0.1},
             ("linear", "linear", "many"), ("hand", "hand", "foot", "abdomen")),
        Look(0.3, {"Papule": 0.75, "Wheal": 0.3, RED: 0.9, "Excoriation": 0.3, "Crust": 0.25, PURPURA: 0.15},
             ("linear",), LIMBS, "small"),
    ),
    "urticaria_hives": (
        Look(0.6, {"Wheal": 1, RED: 0.85, "Papule": 0.12, "Excoriation": 0.2, PURPURA: 0.1},
             ("few", "many", "many"), (*TRUNK, *LIMBS, "neck")),
        Look(0.4, {"Plaque": 0.55, "Patch": 0.45, "Papule": 0.15, RED: 1, "Excoriation": 0.2, "Xerosis": 0.1},
             ("many",), (*TRUNK, *LIMBS), "jagged"),
    ),
    "vascular_tumors": (
        Look(0.5, {"Nodule": 0.75, "Papule": 0.3, "Dome-shaped": 0.7, RED: 0.85, "Purple": 0.3, "Ulcer": 0.12,
                   "Telangiectasia": 0.2, "Crust": 0.12},
             ("few",), ("scalp", *TRUNK, "forearm"), "small"),
        Look(0.35, {"Papule": 1, RED: 0.9, "Dome-shaped": 0.55, "Purple": 0.15},
             ("many",), TRUNK),
        Look(0.15, {"Plaque": 0.6, "Patch": 0.4, RED: 0.9, "Purple": 0.5, "Blue": 0.3, "Telangiectasia": 0.2},
             ("single",), ("face", *LIMBS), "jagged"),
    ),
    "herpes": (
        Look(0.75, {"Vesicle": 0.85, RED: 0.85, "Pustule": 0.3, "Crust": 0.4, "Erosion": 0.2,
                    "Umbilicated": 0.2,
                    "Papule": 0.2},
             ("clustered",), ("face", "face", "back", "chest", "thigh")),
        Look(0.25, {"Erosion": 0.6, "Papule": 0.55, RED: 0.9, "Crust": 0.7, "Pustule": 0.3},
             ("clustered",), ("face", "face", "thigh")),
    ),
}  # fmt: skip

# Which class a phantom is drawn as when it presents atypically: the two are confused in the clinic as well.
MIMICS: dict[str, tuple[str, ...]] = {
    "acne_and_rosacea": ("bacterial_infections", "infestations_and_bites"),
    "malignant_lesions": ("benign_tumors", "melanoma_nevi_moles"),
    "dermatitis": ("psoriasis_and_lichen_planus", "fungal_infections"),
    "bullous_disease": ("herpes", "bacterial_infections"),
    "bacterial_infections": ("herpes", "acne_and_rosacea"),
    "light_diseases": ("melanoma_nevi_moles", "fungal_infections"),
    "connective_tissue_diseases": ("psoriasis_and_lichen_planus", "dermatitis"),
    "benign_tumors": ("melanoma_nevi_moles", "malignant_lesions"),
    "melanoma_nevi_moles": ("benign_tumors", "light_diseases"),
    "fungal_infections": ("dermatitis", "psoriasis_and_lichen_planus"),
    "psoriasis_and_lichen_planus": ("dermatitis", "connective_tissue_diseases"),
    "infestations_and_bites": ("dermatitis", "urticaria_hives"),
    "urticaria_hives": ("infestations_and_bites", "connective_tissue_diseases"),
    "vascular_tumors": ("malignant_lesions", "benign_tumors"),
    "herpes": ("bacterial_infections", "bullous_disease"),
}
ATYPICAL = 0.10


@dataclass(frozen=True)
class Scene:
    """What a phantom shows, before it is drawn."""

    class_name: str
    concepts: tuple[str, ...]
    arrangement: str
    style: str
    site: str
    tone: int
    note: str


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


def _generators(seed: int, split: str, index: int) -> list[np.random.Generator]:
    """Independent generators of one record: what to show, how to draw it, whether concepts are known."""
    name = int.from_bytes(hashlib.sha256(split.encode()).digest()[:8], "big")
    root = np.random.SeedSequence([seed, name, index])
    return [np.random.default_rng(child) for child in root.spawn(3)]


def _choose_concepts(rng: np.random.Generator, look: Look) -> tuple[str, ...]:
    """Draw 2 to 6 concepts of a look such that each can be seen, in CONCEPTS order."""
    likely = sorted(look.concepts, key=lambda name: -look.concepts[name])
    bodies = [name for name in likely if name in SHAPES and name != "Ulcer"]  # an ulcer is in something
    colours = [name for name in likely if name in PIGMENTS or name == RED]
    chosen = {name for name in likely if rng.random() < look.concepts[name]}
    if not chosen & set(bodies):
        chosen.add(bodies[0])
    if chosen & set(FLAT) and not chosen & set(colours):  # a flat lesion is seen by its colour alone
        chosen.add(colours[0])
    keep = {next(n for n in likely if n in chosen & set(g)) for g in (bodies, colours) if chosen & set(g)}
    spare = [name for name in reversed(likely) if name in chosen - keep]
    chosen -= set(spare[: max(0, len(chosen) - 6)])
    misfits = {name for name, needed in NEEDS.items() if not chosen & set(needed)}
    misfits |= {name for name, other in EXCLUDES.items() if other in chosen}
    chosen -= misfits
    for name in likely:
        if len(chosen) < 2 and name not in misfits:
            chosen.add(name)
    return tuple(name for name in CONCEPTS if name in chosen)


def choose_scene(seed: int, split: str, index: int, class_name: str | None = None) -> Scene:
    """Decide what phantom `index` of `split` shows; a pure function, some microseconds, nothing is drawn."""
    if class_name is not None and class_name not in CLASSES:
        raise ValueError(f"unknown class {class_name!r}; known: {', '.join(CLASSES)}")
    rng = _generators(seed, split, index)[0]
    name = class_name or CLASSES[index % len(CLASSES)]
    drawn_as = str(rng.choice(MIMICS[name])) if rng.random() < ATYPICAL else name
    looks = LOOKS[drawn_as]
    weights = np.array([look.weight for look in looks])
    look = looks[rng.choice(len(looks), p=weights / weights.sum())]
    concepts = _choose_concepts(rng, look)
    arrangement, site = str(rng.choice(look.arrangements)), str(rng.choice(look.sites))
    tone = int(rng.integers(1, 7))
    if WHITE in concepts and tone < 3:  # loss of pigment cannot be seen on the palest skin
        tone += 2
    note = write_note(rng, name, concepts, arrangement, site)
    return Scene(name, concepts, arrangement, look.style, site, tone, note)


# --- notes ---------------------------------------------------------------------------------------------

NOUNS: dict[str, tuple[str, ...]] = {
    "Bulla": ("large blister", "bulla"), "Wheal": ("wheal", "raised welt"), "Nodule": ("nodule", "lump"),
    "Plaque": ("plaque", "raised area"), "Patch": ("patch", "flat area"), "Vesicle": ("small blister",
    "vesicle"),
    "Pustule": ("pustule", "pus-filled spot"), "Papule": ("papule", "small bump"), "Macule": ("macule",
    "flat spot"),
    "Erosion": ("erosion", "raw area"), "Ulcer": ("ulcer", "open sore"), "Comedo": ("comedo", "blackhead"),
}  # fmt: skip
ADJECTIVES: dict[str, tuple[str, ...]] = {
    RED: ("red", "erythematous", "inflamed"), BROWN: ("brown", "hyperpigmented"), WHITE: ("pale", "white"),
    "Purple": ("purple", "violaceous"), "Black": ("black", "very dark"), "Blue": ("blue", "bluish"),
    "Yellow": ("yellow", "yellowish"), "Scale": ("scaly", "flaking"), "Crust": ("crusted", "scabbed"),
    WARTY: ("warty", "rough"), "Dome-shaped": ("dome-shaped", "rounded"), "Flat topped": ("flat-topped",),
    "Translucent": ("pearly", "shiny"), "Umbilicated": ("dimpled", "umbilicated"),
    "Lichenification": ("thickened", "lichenified"), "Exudate": ("weeping", "oozing"),
}  # fmt: skip
EXTRAS: dict[str, tuple[str, ...]] = {
    "Excoriation": ("scratch marks", "excoriations"), "Xerosis": ("dry skin around", "surrounding dryness"),
    "Fissure": ("painful cracks", "fissures"), "Telangiectasia": ("fine visible vessels", "telangiectasia"),
    "Scar": ("scarring", "old scars"), "Atrophy": ("thinned skin", "central atrophy"),
    "Ulcer": ("an open sore",),
    "Erosion": ("raw areas", "erosions"), PURPURA: ("tiny purple dots", "petechiae"),
    "Burrow": ("fine burrows", "thin wavy tracks"), "Comedo": ("blackheads", "comedones"),
    "Pustule": ("pustules",), "Papule": ("small bumps", "papules"),
}  # fmt: skip
PLURALS = {"comedo": "comedones", "bulla": "bullae", "patch": "patches"}
AMOUNTS: dict[str, tuple[str, ...]] = {
    "few": ("a few", "some"), "many": ("many", "several"), "clustered": ("a group of", "clustered"),
    "linear": ("a row of", "a line of"),
}  # fmt: skip
SYMPTOMS: dict[str, tuple[str, ...]] = {
    "acne_and_rosacea": ("tender at times", "no itch"), "malignant_lesions": ("slowly growing",
    "bleeds easily"),
    "dermatitis": ("very itchy", "itchy at night"), "bullous_disease": ("itchy and sore", "skin feels tight"),
    "bacterial_infections": ("sore", "spreading"), "light_diseases": ("no itch", "worse in summer"),
    "connective_tissue_diseases": ("worse after sun", "slightly sore"), "benign_tumors": ("no pain",
    "slowly growing"),
    "melanoma_nevi_moles": ("has changed recently", "no pain"), "fungal_infections": ("itchy",
    "slowly spreading"),
    "psoriasis_and_lichen_planus": ("mildly itchy", "comes and goes"),
    "infestations_and_bites": ("itchy at night", "very itchy"), "urticaria_hives": ("very itchy",
    "comes and goes"),
    "vascular_tumors": ("no pain", "bleeds easily"), "herpes": ("burning", "tingling and sore"),
}  # fmt: skip
DURATIONS = ("for some time", "noticed recently", "for a while now", "not seen before", "duration unclear")
TEMPLATES = (
    "{what} on the {site}{extra}; {symptom}.",
    "{site_cap}: {what_low}{extra}. {symptom_cap}, {duration}.",
    "Patient shows {what_low} on the {site}{extra}, {duration}.",
    "{what} of the {site}{extra}.",
    "Presents with {what_low} on the {site}; {symptom}, {duration}.",
    "On the {site} there is skin change with {what_low}{extra}; {symptom}.",
)


def write_note(
    rng: np.random.Generator, name: str, concepts: Sequence[str], arrangement: str, site: str
) -> str:
    """One or two short sentences on site, features and complaint, with words for drawn concepts only."""
    main = next(n for n in NOUNS if n in concepts)
    noun = str(rng.choice(NOUNS[main]))
    known = [str(rng.choice(ADJECTIVES[c])) for c in concepts if c in ADJECTIVES]
    words = [known[i] for i in sorted(rng.permutation(len(known))[:2])]
    ringed = arrangement == "annular" and main in ("Plaque", "Patch")
    one = ringed or (arrangement == "single" and main != "Comedo")
    if ringed:
        words.insert(0, "ring-shaped")
    if one:
        article = "an" if (words or [noun])[0][0] in "aeiou" else "a"
        what = " ".join([article, ", ".join(words), noun] if words else [article, noun])
    else:
        amount = str(rng.choice(AMOUNTS.get(arrangement, ("several",))))
        what = " ".join(filter(None, [amount, ", ".join(words), PLURALS.get(noun, noun + "s")]))
    more = [str(rng.choice(EXTRAS[c])) for c in concepts if c in EXTRAS and c != main]
    extra = f" with {more[rng.integers(len(more))]}" if more else ""
    symptom = str(rng.choice(SYMPTOMS[name]))
    text = str(rng.choice(TEMPLATES)).format(
        what=what[0].upper() + what[1:], what_low=what, site=site, site_cap=site.capitalize(), extra=extra,
        symptom=symptom, symptom_cap=symptom.capitalize(), duration=str(rng.choice(DURATIONS)),
    )  # fmt: skip
    return text


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
    rng = _generators(seed, split, index)[1]
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
    masks: bool
    renderer_version: int = RENDERER_VERSION


def _write_record(index: int, folder: Path, params: SplitParams) -> dict:
    """Render one record, save its files and return its line of the manifest."""
    phantom = render_phantom(params.seed, params.split, index, size=params.size)
    path = folder / "images" / f"{index:06d}.jpg"
    Image.fromarray(phantom.image).save(path, quality=95)
    if params.masks:
        Image.fromarray(phantom.mask * 255).save(folder / "masks" / f"{index:06d}.png")
    known = _generators(params.seed, params.split, index)[2].random() < params.known_concepts
    return {
        "image": f"images/{path.name}",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "source": "phantoms",
        "split": params.split,
        "concepts": list(phantom.concepts) if known else None,
        "disease": phantom.disease,
        "class": phantom.class_name,
        "fitzpatrick": phantom.fitzpatrick,
        "body_site": phantom.body_site,
        "note": phantom.note,
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


def _replace(path: Path, text: str) -> None:
    """Write a text file in one step: readers see the old file or the new one."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_split(
    out_dir: str | Path, split: str, count: int, seed: int, size: int = 224, known_concepts: float = 1.0,
    masks: bool = False,
) -> Path:  # fmt: skip
    """Write `count` phantoms under out_dir/split and return the path of the manifest.

    The manifest comes last and at once, so a manifest means a whole split; one made with the same parameters
    is reused. `known_concepts` (0..1) is the share of records that keep their concepts, others get null.
    """
    if count < 0 or not 0 <= known_concepts <= 1:
        raise ValueError("count must not be negative and known_concepts must lie in 0..1")
    if not split.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"split must be a plain name of letters, digits, - and _, got {split!r}")
    params = SplitParams(split, count, seed, size, float(known_concepts), masks)
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
    _replace(stored, wanted)
    _replace(manifest, "".join(line + "\n" for line in lines))
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
    parser = argparse.ArgumentParser(prog="python -m data.phantoms", description=text)
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
                args.out_dir, args.split, args.count, args.seed, args.size, args.known_concepts, args.masks
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
