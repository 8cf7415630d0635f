"""The outlines of lesions and where on the skin they lie."""

import numpy as np

from data.phantoms.canvas import Canvas, Lesion, soft

# kind: (smallest radius, largest radius, irregularity of the outline, largest elongation)
SHAPES: dict[str, tuple[float, float, float, float]] = {
    "Plaque": (0.19, 0.28, 0.11, 1.35),
    "Patch": (0.20, 0.30, 0.17, 1.45),
    "Wheal": (0.16, 0.25, 0.16, 1.5),
    "Nodule": (0.15, 0.21, 0.05, 1.2),
    "Bulla": (0.12, 0.19, 0.05, 1.25),
    "Erosion": (0.10, 0.16, 0.15, 1.3),
    "Ulcer": (0.12, 0.19, 0.12, 1.3),
    "Papule": (0.026, 0.038, 0.07, 1.15),
    "Macule": (0.024, 0.042, 0.13, 1.3),
    "Vesicle": (0.023, 0.034, 0.06, 1.1),
    "Pustule": (0.024, 0.034, 0.06, 1.1),
    "Comedo": (0.012, 0.018, 0.06, 1.1),
}
SMALL = ("Papule", "Macule", "Vesicle", "Pustule", "Comedo")
FLAT = ("Patch", "Macule")
SOLID = ("Papule", "Plaque", "Nodule", "Patch", "Macule")

# arrangement: (count range of large lesions, their size factor, count range of small lesions, their factor)
ARRANGEMENTS: dict[str, tuple[tuple[int, int], float, tuple[int, int], float]] = {
    "single": ((1, 1), 1.0, (1, 1), 2.6),
    "few": ((2, 3), 0.66, (3, 6), 1.35),
    "many": ((4, 6), 0.48, (13, 24), 0.95),
    "clustered": ((3, 4), 0.50, (9, 14), 1.0),
    "linear": ((3, 4), 0.45, (5, 8), 1.05),
    "annular": ((1, 1), 1.1, (10, 14), 1.0),
}


def make_lesion(c: Canvas, kind: str, x: float, y: float, r: float, ring: bool = False) -> Lesion:
    """A lesion with an irregular closed outline: an ellipse with a few random waves and noise."""
    _, _, rough, stretch = SHAPES[kind]
    rough *= c.rough
    reach = (2.5 if kind in SMALL else 1.75) * r
    lo = np.clip(np.floor(np.array([y - reach, x - reach]) * c.size), 0, c.size - 1).astype(int)
    hi = np.clip(np.ceil(np.array([y + reach, x + reach]) * c.size), lo + 1, c.size).astype(int)
    sl = (slice(lo[0], hi[0]), slice(lo[1], hi[1]))
    turn, stretch = c.rng.uniform(0, np.pi), c.rng.uniform(1, stretch)
    dx, dy = c.x[sl] - x, c.y[sl] - y
    u = (dx * np.cos(turn) + dy * np.sin(turn)) / np.sqrt(stretch)
    v = (dy * np.cos(turn) - dx * np.sin(turn)) * np.sqrt(stretch)
    phi, outline = np.arctan2(v, u), 1.0
    for k in range(2, 6):
        outline = outline + rough * c.rng.normal() / k * 1.3 * np.cos(k * phi + c.rng.uniform(0, 6.3))
    t = np.hypot(u, v) / r / np.clip(outline, 0.55, 1.5)
    t = (t + rough * (0.22 * c.broad[sl] + 0.12 / c.rough * c.fine[sl]) * np.minimum(1, t)).astype(np.float32)
    width = (0.22 if kind == "Patch" else 0.09) * (c.border if r > 0.06 else 1)
    width = max(min(width, 0.65), 2.4 / (r * c.size))
    w = soft(t, 1, width)
    if ring:  # a faint floor stays, as healing skin inside the border does
        w = w * (0.12 + 0.88 * (1 - soft(t, 0.66 + 0.05 * c.rng.random(), 0.22)))
    return Lesion(kind, x, y, r, sl, t, w, width)


def place(c: Canvas, kind: str, arrangement: str) -> None:
    """Put the lesions of one kind on the skin, without overlap where there is room."""
    large, large_factor, small, small_factor = ARRANGEMENTS[arrangement]
    (low, high), factor = (small, small_factor) if kind in SMALL else (large, large_factor)
    if kind == "Comedo":
        low, high, factor = max(6, low), max(12, high), 1.0
    direction, ring_r = c.rng.uniform(0, np.pi), c.rng.uniform(0.16, 0.24)
    for k in range(count := int(c.rng.integers(low, high + 1))):
        for attempt in range(60):
            r = c.rng.uniform(*SHAPES[kind][:2]) * factor * c.scale * (1 - attempt / 130)
            x, y = _candidate(c, arrangement, k / max(1, count - 1), direction, ring_r, count == 1)
            clear = all(np.hypot(x - o.x, y - o.y) > (r + o.r) * 0.98 for o in c.lesions)
            if c.fits(x, y, r) and clear:
                c.lesions.append(
                    make_lesion(c, kind, x, y, r, arrangement == "annular" and kind in ("Plaque", "Patch"))
                )
                break
    if not c.of(kind):  # no room was left: the first one goes on top of the others
        x, y = c.focus
        c.lesions.append(make_lesion(c, kind, x, y, SHAPES[kind][0] * factor * 0.8))


def _candidate(
    c: Canvas, arrangement: str, step: float, direction: float, ring_r: float, alone: bool
) -> tuple[float, float]:
    """A trial position for the lesion at `step` (0..1) of its series."""
    fx, fy = c.focus
    if alone and not c.lesions:
        return fx, fy
    if arrangement == "clustered":
        return tuple(np.array(c.focus) + c.rng.normal(0, 0.11, 2))
    if arrangement == "linear":
        along, across = (step - 0.5) * 0.72, c.rng.normal(0, 0.018)
        dx, dy = np.cos(direction), np.sin(direction)
        return 0.5 + along * dx - across * dy, 0.5 + along * dy + across * dx
    if arrangement == "annular":
        angle, radius = 6.283 * step + c.rng.normal(0, 0.1), ring_r * c.rng.normal(1, 0.06)
        return fx + radius * np.cos(angle), fy + radius * np.sin(angle)
    return tuple(c.rng.uniform(0.06, 0.94, 2))


def anywhere(c: Canvas, kind: str, r: float) -> Lesion:
    """A further mark of radius r near the focus, inside image and limb, clear of lesions if possible."""
    for _ in range(40):
        x, y = np.array(c.focus) + c.rng.normal(0, 0.2, 2)
        if c.fits(x, y, r) and all(np.hypot(x - o.x, y - o.y) > 0.8 * (r + o.r) for o in c.lesions):
            return make_lesion(c, kind, x, y, r)
    return make_lesion(c, kind, *c.focus, r)
