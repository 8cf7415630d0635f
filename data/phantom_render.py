"""Draws one skin phantom: skin, lesions made of SKINCON concepts, light and camera.

Phantoms are drawings with no clinical meaning. Lengths are fractions of the image width, so a scene looks
the same at every size. A `Canvas` carries what the camera would see (reflectance, height, gloss); each
concept is one small function that changes it, and `DRAWERS` is the registry and the painting order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

# Mean sRGB of the six Fitzpatrick types.
TONES = ((243, 212, 196), (230, 187, 162), (211, 161, 128), (176, 124, 90), (133, 88, 62), (92, 61, 47))


@dataclass(frozen=True)
class Site:
    """Fine texture of a body site: furrow depth and count, pores, hairs, gloss, whether it is a limb."""

    lines: float
    line_count: int
    pores: float
    hairs: int
    hair_length: float
    gloss: float
    limb: bool = False
    blood: float = 0.0


SITES: dict[str, Site] = {
    "face": Site(0.0005, 34, 1.0, 5, 0.05, 0.22, blood=0.10),
    "scalp": Site(0.0004, 30, 0.7, 95, 0.38, 0.22, blood=0.05),
    "neck": Site(0.0012, 18, 0.3, 6, 0.06, 0.14, blood=0.06),
    "chest": Site(0.0007, 30, 0.4, 12, 0.14, 0.14),
    "back": Site(0.0007, 28, 0.6, 4, 0.08, 0.16),
    "abdomen": Site(0.0008, 26, 0.2, 7, 0.10, 0.12),
    "forearm": Site(0.0010, 32, 0.2, 30, 0.13, 0.14, limb=True),
    "hand": Site(0.0018, 22, 0.1, 6, 0.07, 0.16, limb=True, blood=0.08),
    "thigh": Site(0.0008, 28, 0.3, 14, 0.12, 0.13),
    "lower leg": Site(0.0010, 26, 0.4, 34, 0.13, 0.20, limb=True),
    "foot": Site(0.0016, 20, 0.1, 3, 0.06, 0.15, limb=True, blood=0.08),
}

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


# style: (factor of the width of the border, factor of the irregularity, factor of the size)
STYLES: dict[str, tuple[float, float, float]] = {
    "plain": (1.0, 1.0, 1.0),
    "ill-defined": (4.5, 1.2, 1.05),
    "sharp": (0.8, 0.45, 1.0),
    "jagged": (1.0, 2.1, 1.0),
    "small": (1.0, 0.8, 0.68),
}


@dataclass
class Lesion:
    """One lesion: `t` is the distance from its centre over its radius (1 on the outline), on window `sl`.

    `w` is 0..1 inside with a border `width` wide; of a ring it is 1 on the band only. Both are float32 arrays
    of the window's shape.
    """

    kind: str
    x: float
    y: float
    r: float
    sl: tuple[slice, slice]
    t: np.ndarray
    w: np.ndarray
    width: float


@lru_cache(maxsize=1)
def _cell_bank() -> tuple[np.ndarray, np.ndarray]:
    """A 768 px Voronoi picture of 32 cells a side: distance to the cell wall (0..1) and value of the cell."""
    rng = np.random.default_rng(7)
    seeds = (
        np.moveaxis(np.mgrid[0:33, 0:33], 0, -1).reshape(-1, 2) + rng.uniform(0, 0.95, (33 * 33, 2))
    ) * 24
    pixels = np.moveaxis(np.mgrid[0:768, 0:768], 0, -1).reshape(-1, 2)
    distance, nearest = cKDTree(seeds).query(pixels, k=2)
    wall = np.clip((distance[:, 1] - distance[:, 0]) / 12, 0, 1).astype(np.float32)
    value = rng.uniform(0, 1, len(seeds)).astype(np.float32)[nearest[:, 0]]
    return wall.reshape(768, 768), value.reshape(768, 768)


_BILINEAR = Image.Resampling.BILINEAR


def _resize(field: np.ndarray, size: int, method: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """(h,w) float32 to (size,size) float32."""
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(field, dtype=np.float32)).resize((size, size), method)
    )


def soft(t: np.ndarray, edge: float, width: float) -> np.ndarray:
    """1 where t is well below `edge`, 0 above it, a smooth step of the given width between."""
    s = np.clip((edge - t) / width + 0.5, 0, 1)
    return s * s * (3 - 2 * s)


class Canvas:
    """The scene under construction; all fields are float32 of (size,size), `albedo` (size,size,3) 0..1."""

    def __init__(
        self, rng: np.random.Generator, size: int, tone: int, site: str, concepts: set[str], style: str
    ):
        """An empty scene of skin type `tone` (1..6) at `site`, to carry `concepts` in `style`."""
        self.rng, self.size, self.tone, self.concepts = rng, size, tone, concepts
        self.site = SITES[site]
        self.border, self.rough, self.scale = STYLES[style]
        axis = (np.arange(size, dtype=np.float32) + 0.5) / size
        self.x, self.y = np.meshgrid(axis, axis)
        self.height = np.zeros((size, size), np.float32)
        self.gloss = np.full((size, size), self.site.gloss, np.float32)
        self.shine = np.zeros((size, size), np.float32)
        self.mask = np.zeros((size, size), np.float32)
        self.albedo = np.empty((size, size, 3), np.float32)
        angle = rng.uniform(-2.6, -0.5)
        self.light = np.array([np.cos(angle), np.sin(angle), 1.15]) / np.hypot(1, 1.15)
        self.limb_angle, self.limb_half = rng.uniform(0, np.pi), rng.uniform(0.40, 0.56)
        self.limb = self.site.limb and rng.random() < 0.75
        self.focus = (0.5, 0.5)
        self.lesions: list[Lesion] = []
        self.fine, self.broad = self.noise(44), self.noise(9)
        self.dark = (tone - 1) / 5

    def noise(self, cells: int) -> np.ndarray:
        """Smooth noise of about unit variance with `cells` bumps a side."""
        return _resize(self.rng.standard_normal((cells, cells), dtype=np.float32) * 1.5, self.size)

    def cells(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Voronoi cells, about `count` a side: distance to the wall 0..1 and a random value of each cell."""
        side = min(768, count * 24)
        oy, ox = self.rng.integers(0, 769 - side, 2)
        turn = int(self.rng.integers(4))
        wall, value = (np.rot90(b[oy : oy + side, ox : ox + side], turn) for b in _cell_bank())
        return _resize(wall, self.size, _BILINEAR), _resize(value, self.size, _BILINEAR)

    def furrows(self, count: int, crossing: float = 0.55) -> np.ndarray:
        """Two families of wavy lines that cross, as skin lines do: 0 on the skin, to 1 in a line."""
        angle, out = self.rng.uniform(0, np.pi), np.zeros_like(self.x)
        for k, a in enumerate((angle, angle + np.pi * crossing)):
            u = self.x * np.cos(a) + self.y * np.sin(a) + 0.006 * self.broad + 0.003 * self.fine
            wave = np.abs(np.sin(np.pi * count * u + 1.3 * k))
            out = np.maximum(out, 1 - np.minimum(1, wave * 2.2))
        return out

    def strokes(self, lines: list[np.ndarray], width: float, seed_px: int = 3) -> np.ndarray:
        """Antialiased (size,size) 0..1 picture of polylines [(n,2) in 0..1] drawn `width` wide."""
        big = self.size * seed_px
        picture = Image.new("L", (big, big))
        draw = ImageDraw.Draw(picture)
        for line in lines:
            draw.line([tuple(p) for p in (line * big).tolist()], 255, max(1, round(width * big)), "curve")
        return np.asarray(picture.reduce(seed_px), np.float32) / 255

    def tint(self, sl: tuple, w: np.ndarray, rgb: tuple, dark_rgb: tuple | None = None) -> None:
        """Mix the colour (0..255; on the darkest skin `dark_rgb`) into the skin with weight w."""
        target = np.array(rgb, np.float32) / 255
        if dark_rgb is not None:
            target = target + (np.array(dark_rgb, np.float32) / 255 - target) * self.dark
        self.albedo[sl] += w[..., None] * (target - self.albedo[sl])
        self.mask[sl] = np.maximum(self.mask[sl], w / max(0.3, float(w.max(initial=0))))

    def absorb(self, sl: tuple, w: np.ndarray, densities: tuple) -> None:
        """Darken as a pigment of these optical densities would; more pigment means darker, never black."""
        self.albedo[sl] *= np.exp(-w[..., None] * np.array(densities, np.float32))
        self.mask[sl] = np.maximum(self.mask[sl], w)

    def redden(self, sl: tuple, w: np.ndarray) -> None:
        """Blood in the skin: bright red on light skin, violaceous brown on dark skin."""
        self.absorb(sl, w, (0.02 + 0.12 * self.dark, 0.52, 0.46 - 0.16 * self.dark))
        if self.tone >= 4:  # a purely multiplied red would vanish on dark skin
            self.tint(sl, np.minimum(0.9, w * (0.19 * (self.tone - 3))), (150, 62, 66), (142, 50, 60))

    def glint(self, les: Lesion, size: float = 0.26, strength: float = 0.8) -> None:
        """The reflection of the lamp on a smooth dome."""
        cx, cy = les.x + 0.36 * les.r * self.light[0], les.y + 0.36 * les.r * self.light[1]
        d2 = (self.x[les.sl] - cx) ** 2 + (self.y[les.sl] - cy) ** 2
        self.shine[les.sl] += strength * np.exp(-d2 / (size * les.r) ** 2).astype(np.float32)

    def of(self, *kinds: str) -> list[Lesion]:
        """The lesions of these kinds, largest first."""
        return sorted((le for le in self.lesions if le.kind in kinds), key=lambda le: -le.r)

    def some(self, lesions: list[Lesion], share: float) -> list[Lesion]:
        """A random share of lesions, one at least."""
        count = max(1, round(share * len(lesions)))
        return [lesions[i] for i in self.rng.permutation(len(lesions))[:count]]

    def fits(self, x: float, y: float, r: float) -> bool:
        """Whether a lesion of radius r at (x,y) lies in the picture and on the limb."""
        if not (r * 0.9 + 0.02 < x < 0.98 - r * 0.9 and r * 0.9 + 0.02 < y < 0.98 - r * 0.9):
            return False
        across = (x - 0.5) * np.cos(self.limb_angle) + (y - 0.5) * np.sin(self.limb_angle)
        return not self.limb or abs(across) + r * 0.8 < self.limb_half * 0.92


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


def paint_skin(c: Canvas) -> None:
    """Base colour, mottling, furrows and pores of the site."""
    rng, everywhere = c.rng, (slice(None), slice(None))
    c.albedo[:] = np.array(TONES[c.tone - 1], np.float32) / 255 * np.exp(rng.normal(0, 0.03))
    c.absorb(everywhere, np.float32(0.035) * c.broad + 0.02 * c.noise(22), (0.6, 1.0, 1.3))
    c.absorb(everywhere, 0.05 * c.noise(5) + 0.02 * c.fine + c.site.blood, (0.05, 0.5, 0.4))
    c.albedo *= np.exp(rng.normal(0, 0.05) * np.array((0.5, 0.9, 1.3), np.float32))
    lines = c.furrows(c.site.line_count)
    c.height -= c.site.lines * lines
    c.absorb(everywhere, 0.05 * lines, (0.7, 1.0, 1.1))
    if c.site.pores > 0.15:
        pore = np.clip(c.noise(80) - 1.7, 0, 1)
        c.height -= 0.0016 * c.site.pores * pore
        c.absorb(everywhere, 0.3 * c.site.pores * pore, (0.6, 1.0, 1.1))
    c.mask[:] = 0


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


def _colour(name: str, strength: float, rgb: tuple, dark_rgb: tuple) -> Callable[[Canvas], None]:
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

    draw.__doc__ = f"{name} of the lesions."
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
        _colour("Yellow", *PIGMENTS["Yellow"])(c)


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


# --- surfaces ------------------------------------------------------------------------------------------


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


def scar(c: Canvas) -> None:
    """Pitted scars among small lesions, elsewhere a pale shiny raised band."""
    if any(le.kind in SMALL for le in c.lesions):
        for _ in range(int(c.rng.integers(7, 13))):
            les = _anywhere(c, "Papule", c.rng.uniform(0.026, 0.042))
            c.height[les.sl] -= 0.62 * les.r * soft(les.t, 0.75, 0.6)
            c.tint(les.sl, 0.35 * soft(les.t, 0.8, 0.5), (248, 218, 206), (160, 118, 100))
            c.absorb(les.sl, 0.28 * soft(les.t, 0.55, 0.4), (0.4, 0.9, 0.8))
        return
    les = max(c.lesions, key=lambda le: le.r)
    path = _wavy(c, les.x, les.y, c.rng.uniform(0, 3.14), max(0.26, 1.5 * les.r), 0.03)
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
        trunk = _wavy(c, *at, c.rng.uniform(0, 3.14), reach, 0.11 * reach)
        lines.append(trunk)
        for _ in range(2):
            fork = trunk[c.rng.integers(4, len(trunk) - 3)]
            lines.append(_wavy(c, fork[0], fork[1], c.rng.uniform(0, 3.14), 0.45 * reach, 0.06 * reach))
    w = c.strokes(lines, 0.0068)
    c.tint((slice(None), slice(None)), 0.92 * w, (158, 10, 34), (206, 54, 78))


def fissure(c: Canvas) -> None:
    """Deep dark-red cracks with pale lips."""
    les = max(c.lesions, key=lambda le: le.r)
    lines, a = [], c.rng.uniform(0, 3.14)
    for k in range(int(c.rng.integers(2, 5))):
        off = (k - 1) * 0.075
        x, y = les.x - off * np.sin(a), les.y + off * np.cos(a)
        lines.append(_wavy(c, x, y, a + c.rng.normal(0, 0.15), c.rng.uniform(0.16, 0.26), 0.022, 7))
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
        lines.append(_wavy(c, x, y, a + c.rng.normal(0, 0.10), c.rng.uniform(0.12, 0.26), 0.010))
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
        les = _anywhere(c, "Papule", 0.09)
        path = _wavy(c, les.x, les.y, c.rng.uniform(0, 3.14), c.rng.uniform(0.13, 0.19), 0.028)
        lines.append(path)
        dot = make_lesion(c, "Comedo", path[-1][0], path[-1][1], 0.011)
        c.tint(dot.sl, 0.9 * dot.w, (48, 30, 28), (14, 10, 10))
    w, lips = c.strokes(lines, 0.009), c.strokes(lines, 0.024)
    c.tint(everywhere, 0.45 * np.clip(lips - w, 0, 1), (250, 238, 228), (178, 148, 130))
    c.tint(everywhere, 0.85 * w, (112, 88, 82), (34, 26, 26))
    c.height += 0.004 * lips


def _anywhere(c: Canvas, kind: str, r: float) -> Lesion:
    """A further mark of radius r near the focus, inside picture and limb, clear of lesions if possible."""
    for _ in range(40):
        x, y = np.array(c.focus) + c.rng.normal(0, 0.2, 2)
        if c.fits(x, y, r) and all(np.hypot(x - o.x, y - o.y) > 0.8 * (r + o.r) for o in c.lesions):
            return make_lesion(c, kind, x, y, r)
    return make_lesion(c, kind, *c.focus, r)


def _wavy(
    c: Canvas, x: float, y: float, a: float, length: float, wave: float, points: int = 16
) -> np.ndarray:
    """A wavy line (points,2) centred on (x,y) in direction a."""
    s = np.linspace(-0.5, 0.5, points)
    bends, starts = c.rng.normal(0, wave * 0.55, 4) / (1, 1, 1.4, 2), c.rng.uniform(0, 6.28, 4)
    side = sum(b * np.sin(3.14 * (k + 1) * s + p) for k, (b, p) in enumerate(zip(bends, starts, strict=True)))
    return np.stack(
        [x + length * s * np.cos(a) - side * np.sin(a), y + length * s * np.sin(a) + side * np.cos(a)], 1
    )


def _blur(field: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur of a 0..1 picture; radius as a fraction of its width."""
    return gaussian_filter(field, radius * field.shape[0], truncate=2.5)


# Every drawn concept, in painting order: from the background up to what lies on top.
DRAWERS: dict[str, Callable[[Canvas], None]] = {
    "Xerosis": xerosis, "Erythema": erythema,
    "Macule": flat, "Patch": flat, "Plaque": plaque, "Papule": papule, "Nodule": nodule, "Wheal": wheal,
    **{name: _colour(name, *look) for name, look in PIGMENTS.items() if name != "Yellow"},
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
# What a concept needs (any of these) to be seen at all; concepts not named here can stand alone.
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


# --- light and camera ----------------------------------------------------------------------------------


def add_hairs(c: Canvas, picture: np.ndarray) -> np.ndarray:
    """Hairs of the site with a common direction; blond on some light skin. Returns (size,size,3) 0..1."""
    count = int(c.site.hairs * c.rng.uniform(0.3, 1.3))
    if not count:
        return picture
    a, spread, lines = c.rng.uniform(0, 6.28), 0.3 if c.site.hairs > 60 else 0.5, []
    for _ in range(count):
        x, y, length = *c.rng.uniform(0, 1, 2), c.site.hair_length * c.rng.uniform(0.6, 1.3)
        lines.append(_wavy(c, x, y, a + c.rng.normal(0, spread), length, 0.10 * length))
    blond = c.tone <= 3 and c.rng.random() < 0.4
    colour = np.array((142, 108, 70) if blond else (40, 28, 22), np.float32) / 255
    w = c.strokes(lines, c.rng.uniform(0.0030, 0.0046), 2)[..., None] * (0.45 if blond else 0.7)
    return picture + w * (colour - picture)


def photograph(c: Canvas) -> np.ndarray:
    """Shade the height field, add lamp reflections, hairs, drape and camera errors: (size,size,3) uint8."""
    rng = c.rng
    gy, gx = np.gradient(c.height, 1 / c.size)
    norm = 1 / np.sqrt(gx * gx + gy * gy + 1)
    light = c.light.astype(np.float32)
    lambert = np.clip((-gx * light[0] - gy * light[1] + light[2]) * norm, 0, None) / light[2]
    half = light + np.array((0, 0, 1), np.float32)
    half /= np.linalg.norm(half)
    shine = np.clip((-gx * half[0] - gy * half[1] + half[2]) * norm, 0, 1) ** 28
    lamp = rng.uniform(0.2, 0.8, 2)
    pool = np.exp(-((c.x - lamp[0]) ** 2 + (c.y - lamp[1]) ** 2) / 0.16)
    shade = 0.36 + 0.64 * np.minimum(lambert, 1.75)
    fall = 1 + rng.uniform(0, 0.16) * ((c.x - 0.5) * light[0] + (c.y - 0.5) * light[1]) * 2
    fall *= 1 - rng.uniform(0.05, 0.34) * ((c.x - 0.5) ** 2 + (c.y - 0.5) ** 2) * 2
    across = (c.x - 0.5) * np.cos(c.limb_angle) + (c.y - 0.5) * np.sin(c.limb_angle)
    if c.limb:
        q = np.clip(across / c.limb_half, -1, 1)
        fall *= 0.45 + 0.55 * np.sqrt(1 - 0.9 * q * q)
    glow = c.gloss * (0.10 * pool * (0.6 + 0.4 * c.fine) + 0.55 * (shine - shine_flat(half))) + 0.75 * c.shine
    picture = c.albedo * (shade * fall)[..., None] + np.clip(glow, 0, 0.9)[..., None]
    picture = add_hairs(c, picture)
    if c.limb:
        drape = (
            np.array(((70, 104, 130), (60, 110, 96), (196, 200, 202), (44, 46, 52))[rng.integers(4)]) / 255
        )
        drape = drape * (1 + 0.05 * c.broad + 0.03 * c.fine)[..., None] * fall[..., None]
        shadow = 0.55 + 0.45 * np.clip((np.abs(across) - c.limb_half) / 0.07, 0, 1)
        skin = soft(np.abs(across) - 0.006 * c.broad, c.limb_half, 0.008)[..., None]
        picture = drape * shadow[..., None] * (1 - skin) + picture * skin
    picture = picture * rng.normal(1, 0.026, 3) * rng.normal(0.96, 0.05)
    picture = picture + rng.uniform(0.004, 0.016) * rng.standard_normal(picture.shape, dtype=np.float32)
    pixels = Image.fromarray((np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8))
    return np.asarray(pixels.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.62) * c.size / 224)))


def shine_flat(half: np.ndarray) -> float:
    """The lamp reflection of flat skin, which is part of the skin's own colour already."""
    return float(half[2] ** 28)


def draw_scene(
    rng: np.random.Generator,
    size: int,
    tone: int,
    site: str,
    concepts: tuple[str, ...],
    arrangement: str,
    style: str = "plain",
) -> tuple[np.ndarray, np.ndarray]:
    """Draw skin of type `tone` (1..6) at `site` that carries exactly `concepts`, all of them in `DRAWN`,
    spread by `arrangement` (a key of `ARRANGEMENTS`) with outlines in `style` (a key of `STYLES`).

    Returns the picture (size,size,3) uint8 and the lesion mask (size,size) uint8 of 0 and 1.
    """
    c = Canvas(rng, size, tone, site, set(concepts), style)
    paint_skin(c)
    spot = rng.uniform(0.42, 0.58, 2) if arrangement in ("single", "annular") else rng.uniform(0.36, 0.64, 2)
    c.focus = (float(spot[0]), float(spot[1])) if not c.limb else (0.5, 0.5)
    for kind in SHAPES:
        if kind in concepts and not (kind == "Ulcer" and c.of("Nodule", "Plaque", "Patch")):
            place(c, kind, arrangement)
    for concept, draw in DRAWERS.items():
        if concept in concepts and not (concept == "Bulla" and "Vesicle" in concepts):
            draw(c)
    picture = photograph(c)
    return picture, (c.mask > 0.35).astype(np.uint8)
