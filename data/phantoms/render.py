"""Draws one phantom: the concepts with their drawers and rules, and the scene from bare skin to photograph.

Each concept is one small function that changes a canvas; `DRAWERS` is the registry and the painting order.
"""

from collections.abc import Callable

import numpy as np

from data.phantoms.camera import photograph
from data.phantoms.canvas import Canvas, paint_skin
from data.phantoms.lesions import (
    PIGMENTS,
    blister,
    coloured,
    comedo,
    erosion,
    erythema,
    flat,
    nodule,
    papule,
    plaque,
    purpura,
    pustule,
    translucent,
    ulcer,
    wheal,
    yellow,
)
from data.phantoms.scene import Scene
from data.phantoms.shapes import SHAPES, place
from data.phantoms.surfaces import (
    atrophy,
    burrow,
    crust,
    excoriation,
    exudate,
    fissure,
    lichenification,
    scale,
    scar,
    telangiectasia,
    umbilicated,
    warty,
    xerosis,
)

# Every drawn concept, in painting order: from the background up to what lies on top.
DRAWERS: dict[str, Callable[[Canvas], None]] = {
    "Xerosis": xerosis, "Erythema": erythema,
    "Macule": flat, "Patch": flat, "Plaque": plaque, "Papule": papule, "Nodule": nodule, "Wheal": wheal,
    **{name: coloured(name, *look) for name, look in PIGMENTS.items() if name != "Yellow"},
    "Yellow": yellow, "Translucent": translucent,
    "Vesicle": blister, "Bulla": blister, "Pustule": pustule, "Comedo": comedo,
    "Erosion": erosion, "Atrophy": atrophy, "Lichenification": lichenification, "Warty/Papillomatous": warty,
    "Umbilicated": umbilicated, "Purpura/Petechiae": purpura, "Ulcer": ulcer, "Exudate": exudate,
    "Scale": scale, "Scar": scar, "Telangiectasia": telangiectasia, "Fissure": fissure, "Crust": crust,
    "Burrow": burrow, "Excoriation": excoriation,
}  # fmt: skip
# Concepts that change the body of a lesion and are drawn with it.
SHAPE_CONCEPTS = ("Dome-shaped", "Flat topped")
DRAWN = frozenset(DRAWERS) | frozenset(SHAPE_CONCEPTS)


def draw_scene(rng: np.random.Generator, scene: Scene, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene; all its concepts are in `DRAWN`.

    Returns the image (size,size,3) uint8 and the lesion mask (size,size) uint8 of 0 and 1.
    """
    concepts, arrangement = scene.concepts, scene.arrangement
    c = Canvas(rng, size, scene.tone, scene.site, set(concepts), scene.style)
    paint_skin(c)
    spot = rng.uniform(0.42, 0.58, 2) if arrangement in ("single", "annular") else rng.uniform(0.36, 0.64, 2)
    c.focus = (float(spot[0]), float(spot[1])) if not c.limb else (0.5, 0.5)
    for kind in SHAPES:
        if kind in concepts and not (kind == "Ulcer" and c.of("Nodule", "Plaque", "Patch")):
            place(c, kind, arrangement)
    for concept, draw in DRAWERS.items():
        if concept in concepts and not (concept == "Bulla" and "Vesicle" in concepts):
            draw(c)
    image = photograph(c)
    return image, (c.mask > 0.35).astype(np.uint8)
