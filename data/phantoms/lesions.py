"""Drawers of what a lesion is: its body (papule, plaque, blister, ...) and its colour."""

from collections.abc import Callable

import numpy as np

from data.phantoms.canvas import Canvas, Lesion, soft
from data.phantoms.shapes import FLAT, SMALL, SOLID, make_lesion

# --- lesion bodies -------------------------------------------------------------------------------------


def papule(c: Canvas) -> None:
    """Small bumps: rounded, hemispheres when Dome-shaped, tables when Flat topped."""
    for les in c.of("Papule"):
        _raise(c, les, 0.55)


def nodule(c: Canvas) -> None:
    """A large bump."""
    for les in c.of("Nodule"):
        _raise(c, les, 0.42)


def _raise(c: Canvas, les: Lesion, steepness: float) -> None:
    t = np.minimum(les.t, 1.25)
    bump = np.exp(-2.2 * t * t) - 0.11
    if "Dome-shaped" in c.concepts:
        bump = np.sqrt(np.clip(1.02 - les.t**2, 0, 1)) * 1.15
        c.glint(les, 0.2, 0.7)
    elif "Flat topped" in c.concepts:
        bump = soft(les.t, 0.86, 0.3) * 0.75
        c.gloss[les.sl] += 0.25 * les.w
    c.height[les.sl] += steepness * les.r * np.clip(bump, 0, None)
    c.absorb(les.sl, 0.10 * les.w + 0.16 * soft(np.abs(les.t - 1), 0.12, 0.2), (0.5, 0.9, 0.9))
    c.mask[les.sl] = np.maximum(c.mask[les.sl], les.w)


def plaque(c: Canvas) -> None:
    """A broad plateau with a steep border."""
    for les in c.of("Plaque"):
        rim = np.exp(-(((les.t - 0.93) / 0.1) ** 2))
        c.height[les.sl] += 0.018 * soft(les.t, 0.98, max(0.16, les.width)) * (les.w + 0.3)
        c.height[les.sl] += 0.006 * rim * min(1, 0.12 / les.width)
        c.height[les.sl] += 0.0011 * c.fine[les.sl] * les.w
        c.absorb(les.sl, 0.10 * les.w, (0.5, 0.9, 0.9))
        c.mask[les.sl] = np.maximum(c.mask[les.sl], les.w)


def flat(c: Canvas) -> None:
    """Macules and patches have no height: their colour concepts draw them; here only the mask."""
    for les in c.of(*FLAT):
        c.mask[les.sl] = np.maximum(c.mask[les.sl], les.w)


def wheal(c: Canvas) -> None:
    """A smooth swelling, paler in the middle, with stretched skin."""
    for les in c.of("Wheal"):
        c.height[les.sl] += 0.020 * soft(les.t, 0.95, 0.24)
        c.gloss[les.sl] += 0.22 * les.w
        c.tint(les.sl, 0.45 * soft(les.t, 0.80, 0.4), (253, 230, 220), (168, 122, 104))
        c.mask[les.sl] = np.maximum(c.mask[les.sl], les.w)


def blister(c: Canvas) -> None:
    """Vesicles and bullae: tense domes of clear fluid with a dark rim and a lamp reflection."""
    for les in c.of("Vesicle", "Bulla"):
        dome = np.sqrt(np.clip(1.02 - les.t**2, 0, 1))
        c.height[les.sl] += (0.6 if les.kind == "Vesicle" else 0.34) * les.r * dome
        c.tint(les.sl, 0.5 * les.w, (244, 222, 182), (176, 140, 104))
        c.absorb(les.sl, 0.4 * soft(np.abs(les.t - 0.95), 0.1, 0.16), (0.4, 0.9, 0.9))
        c.gloss[les.sl] += 0.5 * les.w
        c.glint(les, 0.20, 1.0)
        c.mask[les.sl] = np.maximum(c.mask[les.sl], les.w)


def pustule(c: Canvas) -> None:
    """Small domes with a cream-white core of pus."""
    for les in c.of("Pustule"):
        c.height[les.sl] += 0.5 * les.r * np.sqrt(np.clip(1.02 - les.t**2, 0, 1))
        c.absorb(les.sl, 0.45 * les.w, (0.2, 0.8, 0.7))
        c.tint(les.sl, 0.92 * soft(les.t, 0.66, 0.35), (250, 244, 206), (226, 212, 168))
        c.glint(les, 0.16, 0.4)


def comedo(c: Canvas) -> None:
    """Open comedones: black plugs in a pale collar."""
    for les in c.of("Comedo"):
        c.height[les.sl] += 0.4 * les.r * np.exp(-(((les.t - 1.1) / 0.5) ** 2))
        c.tint(les.sl, 0.35 * soft(les.t, 1.5, 0.7), (246, 220, 204), (150, 108, 84))
        c.tint(les.sl, 0.92 * soft(les.t, 0.85, 0.4), (44, 32, 28), (16, 12, 12))


def erosion(c: Canvas) -> None:
    """Shallow moist red skin loss with a loose pale edge."""
    for les in c.of("Erosion"):
        c.height[les.sl] -= 0.007 * soft(les.t, 0.97, 0.08)
        c.tint(les.sl, 0.85 * les.w, (206, 74, 76), (168, 66, 68))
        c.absorb(les.sl, 0.22 * les.w * np.clip(c.fine[les.sl], -1, 1), (0.4, 1, 1))
        c.tint(les.sl, 0.6 * soft(np.abs(les.t - 1.03), 0.05, 0.06), (246, 226, 210), (184, 146, 122))
        c.gloss[les.sl] += 0.65 * les.w


def ulcer(c: Canvas) -> None:
    """A pit with a rolled edge, dark red floor and yellow slough; in a large lesion if there is one."""
    hosts = c.of("Nodule", "Plaque", "Patch")[:1] or c.of("Ulcer")
    for les in hosts:
        edge = 1.0 if les.kind == "Ulcer" else 0.52
        t = les.t + 0.03 * c.fine[les.sl]
        pit = soft(t, edge, 0.14)
        c.height[les.sl] += 0.010 * np.exp(-(((t - edge - 0.08) / 0.10) ** 2)) - 0.020 * pit
        c.tint(les.sl, 0.92 * pit, (128, 26, 28), (84, 18, 22))
        slough = pit * soft(-c.noise(16)[les.sl], -0.35, 0.5) * soft(t, edge * 0.8, 0.2)
        c.tint(les.sl, 0.75 * slough, (196, 166, 96), (170, 140, 84))
        c.absorb(les.sl, 0.5 * soft(np.abs(t - edge), 0.04, 0.1), (0.5, 1, 1))
        c.gloss[les.sl] += 0.5 * pit
        c.mask[les.sl] = np.maximum(c.mask[les.sl], pit)


# --- colours -------------------------------------------------------------------------------------------


def erythema(c: Canvas) -> None:
    """Redness of wide lesions and around small ones; a common base under a cluster."""
    for les in c.lesions:
        if les.kind in SMALL and les.kind != "Macule":
            c.redden(les.sl, soft(les.t, 1.5 + 0.25 * c.dark, 1.1))
        elif les.kind == "Wheal":
            c.redden(les.sl, 0.85 * soft(les.t, 1.22, 0.5) * (1 - 0.45 * soft(les.t, 0.5, 0.5)))
        elif les.kind in ("Bulla", "Erosion", "Ulcer"):
            c.redden(les.sl, 0.85 * soft(les.t, 1.32, 0.6))
        else:
            mottle = 1 + 0.14 * c.broad[les.sl] + 0.08 * c.fine[les.sl]
            c.redden(les.sl, (1.05 if les.kind == "Plaque" else 0.9) * les.w * np.clip(mottle, 0.6, 1.4))
            if c.concepts & {*PIGMENTS, "Translucent"} - {"Yellow"}:  # these cover the lesion: a red margin
                c.redden(les.sl, 0.9 * soft(les.t, 1.38, 0.4) * (1 - les.w))
    dense = [le for le in c.lesions if le.kind in SMALL]
    spread = np.array([(le.x, le.y) for le in dense]).std(0).sum() if len(dense) > 4 else 1
    if spread < 0.26:
        mean_x, mean_y = np.mean([(le.x, le.y) for le in dense], 0).tolist()
        base = make_lesion(c, "Patch", mean_x, mean_y, 0.55 * spread + 0.10)
        c.redden(base.sl, 0.6 * soft(base.t, 1, 0.35))


def coloured(name: str, strength: float, rgb: tuple, dark_rgb: tuple) -> Callable[[Canvas], None]:
    """A drawer that colours lesions; beside another pigment it takes an off-centre part of each."""

    def draw(c: Canvas) -> None:
        first = next((n for n in PIGMENTS if n in c.concepts), name)
        for les in c.of(*SOLID) or c.lesions:
            w = les.w * np.clip(1 + 0.05 * c.fine[les.sl] + 0.05 * c.broad[les.sl], 0, 1.12)
            if name != first or (name == "White(Hypopigmentation)" and "Erythema" in c.concepts):
                angle, off = c.rng.uniform(0, 6.3), 0.42 * les.r
                d = np.hypot(
                    c.x[les.sl] - les.x - off * np.cos(angle), c.y[les.sl] - les.y - off * np.sin(angle)
                )
                w = w * soft(d / les.r + 0.10 * c.broad[les.sl] + 0.05 * c.fine[les.sl], 0.50, 0.22)
            c.tint(les.sl, np.minimum(1, strength * w), rgb, dark_rgb)

    return draw


# name: (strength, colour on light skin, colour on dark skin), the first of a scene's pigments goes below
PIGMENTS: dict[str, tuple[float, tuple, tuple]] = {
    "Brown(Hyperpigmentation)": (0.78, (138, 88, 54), (46, 28, 20)),
    "White(Hypopigmentation)": (0.85, (254, 246, 238), (222, 190, 170)),
    "Purple": (0.72, (118, 62, 102), (80, 38, 72)),
    "Black": (0.9, (34, 27, 28), (14, 11, 13)),
    "Blue": (0.78, (78, 92, 124), (56, 68, 100)),
    "Yellow": (0.72, (226, 194, 110), (190, 152, 84)),
}


def yellow(c: Canvas) -> None:
    """Yellow of the lesions; crust carries the colour itself where there is crust (see `crust`)."""
    if "Crust" not in c.concepts:
        coloured("Yellow", *PIGMENTS["Yellow"])(c)


def purpura(c: Canvas) -> None:
    """Flat dark-red dots scattered around the focus."""
    for _ in range(int(c.rng.integers(30, 50))):
        x, y = np.array(c.focus) + c.rng.normal(0, 0.15, 2)
        if c.fits(x, y, 0.01):
            les = make_lesion(c, "Comedo", x, y, c.rng.uniform(0.008, 0.016))
            c.tint(les.sl, 0.85 * les.w, (122, 20, 44), (62, 8, 30))


def translucent(c: Canvas) -> None:
    """A pearly sheen, strongest in a ring under the border."""
    for les in c.of("Nodule", "Papule", "Plaque"):
        c.tint(
            les.sl,
            les.w * (0.35 + 0.3 * soft(np.abs(les.t - 0.75), 0.15, 0.3)),
            (246, 214, 206),
            (178, 134, 120),
        )
        c.gloss[les.sl] += (0.6 - 0.3 * c.dark) * les.w
        c.glint(les, 0.28, 0.55)
