"""Drawers of what lies in or on a lesion or the skin: its texture, coats of scale or crust, cracks and marks."""

import numpy as np
from scipy.ndimage import gaussian_filter

from data.phantoms.canvas import Canvas, soft, wavy
from data.phantoms.shapes import SMALL, anywhere, make_lesion

# --- texture -------------------------------------------------------------------------------------------


def umbilicated(c: Canvas) -> None:
    """A dimple in the middle of each dome."""
    for les in c.of("Papule", "Vesicle", "Nodule", "Pustule"):
        dent = soft(les.t, 0.40, 0.34)
        c.height[les.sl] -= 0.75 * les.r * dent * (0.5 if les.kind == "Nodule" else 1)
        c.absorb(les.sl, 0.8 * soft(les.t, 0.34, 0.3), (0.6, 0.9, 0.9))
        c.shine[les.sl] *= 1 - dent


def warty(c: Canvas) -> None:
    """A cauliflower surface: packed bumps with dark clefts."""
    wall, value = c.cells(30)
    fine_wall, _ = c.cells(31)
    for les in c.of("Plaque", "Papule", "Nodule") or c.lesions:
        bumps = np.sqrt((wall if les.r > 0.08 else fine_wall)[les.sl])
        c.height[les.sl] += les.w * (0.012 * bumps + 0.004 * value[les.sl])
        c.absorb(les.sl, 0.75 * les.w * (1 - bumps) ** 1.5, (0.8, 1.0, 1.1))


def atrophy(c: Canvas) -> None:
    """Sunken, thin, shiny skin with cigarette-paper wrinkles in the inner part."""
    for les in c.of("Plaque", "Patch", "Nodule", "Papule")[:2]:
        w = soft(les.t + 0.05 * c.fine[les.sl], 0.66, 0.18)
        a = c.rng.uniform(0, np.pi)
        u = (
            c.x[les.sl] * np.cos(a)
            + c.y[les.sl] * np.sin(a)
            + 0.010 * c.broad[les.sl]
            + 0.004 * c.fine[les.sl]
        )
        wrinkle = np.sin(2 * np.pi * 38 * u) * np.clip(0.9 + 0.5 * c.broad[les.sl], 0.2, 1.5)
        c.height[les.sl] += w * (0.0013 * wrinkle - 0.020)
        c.tint(les.sl, 0.42 * w, (246, 222, 214), (170, 132, 116))
        c.gloss[les.sl] += 0.5 * w


def lichenification(c: Canvas) -> None:
    """Thick skin with deep criss-cross lines."""
    lines = c.furrows(19, 0.62)
    hosts = c.of("Plaque", "Patch")[:2] or [make_lesion(c, "Patch", *c.focus, 0.24)]
    for les in hosts:
        w = soft(les.t, 0.98, 0.3)
        c.height[les.sl] += w * (0.008 - 0.006 * lines[les.sl])
        c.absorb(les.sl, w * (0.10 + 0.42 * lines[les.sl]), (0.6, 0.9, 1.0))


def xerosis(c: Canvas) -> None:
    """Dry ashy skin all over: cracked polygons with lifted pale edges."""
    wall, value = c.cells(17)
    where = soft(-c.noise(4), 0.35, 1.2) * 0.85 + 0.15
    crack = soft(wall, 0.16, 0.2) * where
    c.height -= 0.003 * crack
    everywhere, mask = (slice(None), slice(None)), c.mask.copy()
    ash = where * (0.22 * value + 0.5 * soft(np.abs(wall - 0.34), 0.10, 0.2))
    c.tint(everywhere, ash, (250, 244, 236), (176, 158, 146))
    c.absorb(everywhere, 0.35 * crack, (0.5, 0.9, 0.9))
    c.gloss *= 0.4
    c.mask[:] = mask


# --- coats ---------------------------------------------------------------------------------------------


def scale(c: Canvas) -> None:
    """Silvery white flakes, plates with lifted edges, on the lesions."""
    big, small = c.cells(26), c.cells(32)
    for les in c.of("Plaque", "Patch", "Papule", "Nodule") or c.lesions:
        wall, value = (v[les.sl] for v in (small if les.r < 0.1 else big))
        area = les.w * soft(les.t, 0.97, 0.2)
        if c.concepts & {"Ulcer", "Atrophy"}:  # these fill the middle and must stay in sight
            area *= 1 - soft(les.t, 0.66, 0.15)
        there = soft(les.t, 0.75, 0.4)
        if les.r > 0.06:  # flakes lie here and there on a wide lesion, thin at their frayed edges
            there = soft(-value - 0.12 * c.broad[les.sl] - 0.10 * c.fine[les.sl], -0.42, 0.55)
        flake = area * there * (0.5 + 0.5 * soft(-wall, -0.16, 0.3))
        c.tint(les.sl, (0.62 + 0.26 * value) * flake, (246, 240, 234), (208, 198, 190))
        c.height[les.sl] += 0.006 * flake * (0.6 + value)
        c.gloss[les.sl] *= 1 - 0.6 * flake


def crust(c: Canvas) -> None:
    """Dried blood (dark brown) or, with Yellow, honey-coloured crumbs in the middle of lesions."""
    honey, angle = "Yellow" in c.concepts, c.rng.uniform(0, 6.28)
    side = np.cos(angle), np.sin(angle)
    wall, value = c.cells(28)
    hosts = c.of("Erosion", "Plaque", "Patch", "Nodule", "Bulla", "Ulcer")
    small = [le for le in c.of(*SMALL) if le.kind != "Comedo"]
    chosen = (c.some(hosts, 0.6) if hosts else []) + (c.some(small, 0.35) if small else [])
    for les in chosen or c.lesions:
        edge = 0.9 if les.r < 0.06 else (0.72 if honey else 0.5)
        w = soft(les.t + 0.10 * c.broad[les.sl] + 0.09 * c.fine[les.sl], edge, 0.16)
        if "Ulcer" in c.concepts and les.r > 0.06:  # half of the floor stays open
            w *= soft((c.x[les.sl] - les.x) * side[0] + (c.y[les.sl] - les.y) * side[1], 0, 0.25 * les.r)
        colour = ((222, 168, 62), (190, 134, 44)) if honey else ((104, 50, 32), (40, 20, 18))
        c.tint(les.sl, 0.94 * w, *colour)
        c.tint(les.sl, w * 0.55 * soft(-value[les.sl], -0.7, 0.4), *(
            ((248, 218, 130), (228, 186, 92)) if honey else ((158, 88, 56), (110, 62, 46))))  # fmt: skip
        c.absorb(les.sl, 0.4 * w * (1 - wall[les.sl]) ** 2, (0.6, 0.9, 1.2))
        c.absorb(les.sl, 0.5 * soft(np.abs(w - 0.35), 0.2, 0.3), (0.6, 0.9, 0.9))
        c.height[les.sl] += w * (0.012 + 0.008 * wall[les.sl] + 0.005 * value[les.sl])
        c.shine[les.sl] *= 1 - w
        c.gloss[les.sl] += (0.5 if honey else 0.1) * w


def exudate(c: Canvas) -> None:
    """A wet yellowish film with drops that mirror the lamp."""
    for les in c.of("Plaque", "Patch", "Erosion", "Bulla", "Nodule")[:2] or c.lesions[:6]:
        film = soft(les.t + 0.18 * c.broad[les.sl], 0.8, 0.3)
        c.tint(les.sl, 0.32 * film, (238, 196, 110), (176, 128, 66))
        c.gloss[les.sl] += 0.35 * film
        for _ in range(7 if les.r > 0.06 else 1):
            off = c.rng.normal(0, 0.36 * les.r, 2)
            drop = make_lesion(c, "Vesicle", les.x + off[0], les.y + off[1], c.rng.uniform(0.014, 0.030))
            c.height[drop.sl] += 0.4 * drop.r * np.sqrt(np.clip(1 - drop.t**2, 0, 1))
            c.tint(drop.sl, 0.55 * drop.w, (236, 184, 84), (186, 130, 56))
            c.glint(drop, 0.22, 0.9)


# --- marks ---------------------------------------------------------------------------------------------


def scar(c: Canvas) -> None:
    """Pitted scars among small lesions, elsewhere a pale shiny raised band."""
    if any(le.kind in SMALL for le in c.lesions):
        for _ in range(int(c.rng.integers(7, 13))):
            les = anywhere(c, "Papule", c.rng.uniform(0.026, 0.042))
            c.height[les.sl] -= 0.62 * les.r * soft(les.t, 0.75, 0.6)
            c.tint(les.sl, 0.35 * soft(les.t, 0.8, 0.5), (248, 218, 206), (160, 118, 100))
            c.absorb(les.sl, 0.28 * soft(les.t, 0.55, 0.4), (0.4, 0.9, 0.8))
        return
    les = max(c.lesions, key=lambda le: le.r)
    path = wavy(c, les.x, les.y, c.rng.uniform(0, 3.14), max(0.26, 1.5 * les.r), 0.03)
    w = _blur(c.strokes([path], 0.045), 0.006)
    everywhere = (slice(None), slice(None))
    c.height += 0.016 * w
    c.tint(everywhere, 0.85 * w, (250, 216, 208), (188, 142, 128))
    c.absorb(everywhere, 0.5 * w * (1 - w) * 4 * 0.4, (0.3, 1, 0.9))
    c.gloss += 0.5 * w


def telangiectasia(c: Canvas) -> None:
    """Thin branching red vessels over the largest lesion, or over the focus."""
    wide = [le for le in c.lesions if le.r > 0.06]
    x, y, r = next(((le.x, le.y, le.r) for le in sorted(wide, key=lambda le: -le.r)), (*c.focus, 0.2))
    lines = []
    reach = min(0.16, 0.95 * r)
    for _ in range(int(c.rng.integers(6, 10))):
        a, start = c.rng.uniform(0, 6.28), c.rng.uniform(0.1, 0.9) * max(r, 0.1)
        at = x + start * np.cos(a), y + start * np.sin(a)
        trunk = wavy(c, *at, c.rng.uniform(0, 3.14), reach, 0.11 * reach)
        lines.append(trunk)
        for _ in range(2):
            fork = trunk[c.rng.integers(4, len(trunk) - 3)]
            lines.append(wavy(c, fork[0], fork[1], c.rng.uniform(0, 3.14), 0.45 * reach, 0.06 * reach))
    w = c.strokes(lines, 0.0068)
    c.tint((slice(None), slice(None)), 0.92 * w, (158, 10, 34), (206, 54, 78))


def fissure(c: Canvas) -> None:
    """Deep dark-red cracks with pale lips."""
    les = max(c.lesions, key=lambda le: le.r)
    lines, a = [], c.rng.uniform(0, 3.14)
    for k in range(int(c.rng.integers(2, 5))):
        off = (k - 1) * 0.075
        x, y = les.x - off * np.sin(a), les.y + off * np.cos(a)
        lines.append(wavy(c, x, y, a + c.rng.normal(0, 0.15), c.rng.uniform(0.16, 0.26), 0.022, 7))
    w, lips = c.strokes(lines, 0.011), _blur(c.strokes(lines, 0.034), 0.004)
    everywhere = (slice(None), slice(None))
    c.tint(everywhere, 0.5 * np.clip(lips - w, 0, 1), (248, 228, 214), (190, 156, 138))
    c.height += 0.003 * lips - 0.005 * w
    c.tint(everywhere, 0.95 * w, (112, 8, 18), (104, 8, 18))


def excoriation(c: Canvas) -> None:
    """Parallel scratch marks, raw red, broken, with dots of blood."""
    a, lines = c.rng.uniform(0, 3.14), []
    for _ in range(int(c.rng.integers(4, 8))):
        les = c.lesions[c.rng.integers(len(c.lesions))]
        x, y = np.clip(np.array((les.x, les.y)) + c.rng.normal(0, 0.035 + 0.3 * les.r, 2), 0.14, 0.86)
        lines.append(wavy(c, x, y, a + c.rng.normal(0, 0.10), c.rng.uniform(0.12, 0.26), 0.010))
    broken = np.clip(0.85 + 0.5 * c.fine, 0.25, 1)
    w = c.strokes(lines, 0.012) * broken
    everywhere = (slice(None), slice(None))
    c.absorb(everywhere, 0.35 * _blur(c.strokes(lines, 0.03), 0.006), (0.1, 0.6, 0.5))
    c.tint(everywhere, 0.95 * w, (138, 18, 24), (206, 92, 84))
    c.tint(everywhere, 0.9 * w * soft(-c.fine, -0.7, 0.4), (84, 14, 16), (60, 10, 14))
    c.height -= 0.002 * w


def burrow(c: Canvas) -> None:
    """Short wavy grey-brown ridges, each ending in a dark dot."""
    everywhere, lines = (slice(None), slice(None)), []
    for _ in range(int(c.rng.integers(3, 6))):
        les = anywhere(c, "Papule", 0.09)
        path = wavy(c, les.x, les.y, c.rng.uniform(0, 3.14), c.rng.uniform(0.13, 0.19), 0.028)
        lines.append(path)
        dot = make_lesion(c, "Comedo", path[-1][0], path[-1][1], 0.011)
        c.tint(dot.sl, 0.9 * dot.w, (48, 30, 28), (14, 10, 10))
    w, lips = c.strokes(lines, 0.009), c.strokes(lines, 0.024)
    c.tint(everywhere, 0.45 * np.clip(lips - w, 0, 1), (250, 238, 228), (178, 148, 130))
    c.tint(everywhere, 0.85 * w, (112, 88, 82), (34, 26, 26))
    c.height += 0.004 * lips


def _blur(field: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur of a 0..1 image; radius as a fraction of its width."""
    return gaussian_filter(field, radius * field.shape[0], truncate=2.5)
