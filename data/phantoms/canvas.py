"""The canvas of a phantom: skin types, body sites, smooth noise, skin lines, strokes, and how colour is mixed in.

Lengths are fractions of the image width, so a scene looks the same at every size. A `Canvas` carries what the
camera would see (reflectance, height, gloss); the drawers of concepts change it, `data.phantoms.camera`
photographs it.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw
from scipy.spatial import cKDTree

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
    """A 768 px Voronoi image of 32 cells a side: distance to the cell wall (0..1) and value of the cell."""
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

    def strokes(self, lines: list[np.ndarray], width: float, oversampling: int = 3) -> np.ndarray:
        """Antialiased (size,size) 0..1 image of polylines [(n,2) in 0..1] drawn `width` wide."""
        big = self.size * oversampling
        image = Image.new("L", (big, big))
        draw = ImageDraw.Draw(image)
        for line in lines:
            draw.line([tuple(p) for p in (line * big).tolist()], 255, max(1, round(width * big)), "curve")
        return np.asarray(image.reduce(oversampling), np.float32) / 255

    def tint(self, sl: tuple, w: np.ndarray, rgb: tuple, dark_rgb: tuple) -> None:
        """Mix the colour (0..255; `dark_rgb` on the darkest skin) into the skin with weight w."""
        target = np.array(rgb, np.float32) / 255
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

    def glint(self, les: Lesion, size: float, strength: float) -> None:
        """The reflection of the lamp on a smooth dome."""
        cx, cy = les.x + 0.36 * les.r * self.light[0], les.y + 0.36 * les.r * self.light[1]
        d2 = (self.x[les.sl] - cx) ** 2 + (self.y[les.sl] - cy) ** 2
        self.shine[les.sl] += strength * np.exp(-d2 / (size * les.r) ** 2).astype(np.float32)

    def of(self, *kinds: str) -> list[Lesion]:
        """The lesions of these kinds, largest first."""
        return sorted((le for le in self.lesions if le.kind in kinds), key=lambda le: -le.r)

    def some(self, lesions: list[Lesion], fraction: float) -> list[Lesion]:
        """A random fraction of lesions, at least one."""
        count = max(1, round(fraction * len(lesions)))
        return [lesions[i] for i in self.rng.permutation(len(lesions))[:count]]

    def fits(self, x: float, y: float, r: float) -> bool:
        """Whether a lesion of radius r at (x,y) lies in the image and on the limb."""
        if not (r * 0.9 + 0.02 < x < 0.98 - r * 0.9 and r * 0.9 + 0.02 < y < 0.98 - r * 0.9):
            return False
        across = (x - 0.5) * np.cos(self.limb_angle) + (y - 0.5) * np.sin(self.limb_angle)
        return not self.limb or abs(across) + r * 0.8 < self.limb_half * 0.92


def wavy(c: Canvas, x: float, y: float, a: float, length: float, wave: float, points: int = 16) -> np.ndarray:
    """A wavy line (points,2) centred on (x,y) in direction a."""
    s = np.linspace(-0.5, 0.5, points)
    bends, starts = c.rng.normal(0, wave * 0.55, 4) / (1, 1, 1.4, 2), c.rng.uniform(0, 6.28, 4)
    side = sum(b * np.sin(3.14 * (k + 1) * s + p) for k, (b, p) in enumerate(zip(bends, starts, strict=True)))
    return np.stack(
        [x + length * s * np.cos(a) - side * np.sin(a), y + length * s * np.sin(a) + side * np.cos(a)], 1
    )


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
