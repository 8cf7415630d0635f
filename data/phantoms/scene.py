"""What a phantom shows, before it is drawn: the looks of each class, and one scene drawn from them."""

import hashlib
from dataclasses import dataclass

import numpy as np

from data.phantoms.lesions import PIGMENTS
from data.phantoms.notes import write_note
from data.phantoms.shapes import FLAT, SHAPES, SOLID
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS

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
HEAD = ("face", "face", "scalp", "neck")

# Each class overlaps with its clinical mimics, so that concepts help but do not decide; arrangement, site and
# style of the outline distinguish some of them, as they do in the clinic.
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
# What a concept needs (any of these) to be visible at all; concepts not named here need nothing else.
NEEDS: dict[str, tuple[str, ...]] = {
    "Dome-shaped": ("Papule", "Nodule"),
    "Flat topped": ("Papule", "Nodule"),
    "Umbilicated": ("Papule", "Nodule", "Vesicle", "Pustule"),
    "Translucent": ("Papule", "Nodule", "Plaque"),
    "Warty/Papillomatous": ("Papule", "Nodule", "Plaque"),
    "Scale": ("Papule", "Nodule", "Plaque", "Patch"),
    "Atrophy": ("Plaque", "Patch"),
    **dict.fromkeys(PIGMENTS, SOLID),
    "Yellow": ("Crust", *SOLID),
}
# Of these pairs the second would hide the first or contradict it.
EXCLUDES = {"Flat topped": "Dome-shaped", "White(Hypopigmentation)": "Scale"}


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


def generators(seed: int, split: str, index: int) -> list[np.random.Generator]:
    """Independent generators of one record: what to show, how to draw it, whether concepts are known, its caption."""
    name = int.from_bytes(hashlib.sha256(split.encode()).digest()[:8], "big")
    root = np.random.SeedSequence([seed, name, index])
    return [np.random.default_rng(child) for child in root.spawn(4)]


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
    rng = generators(seed, split, index)[0]
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
