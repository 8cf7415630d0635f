"""The photograph of a canvas: lamp, hairs, the drape behind a limb, and the camera's own errors."""

import numpy as np
from PIL import Image, ImageFilter

from data.phantoms.canvas import Canvas, soft, wavy


def add_hairs(c: Canvas, image: np.ndarray) -> np.ndarray:
    """Hairs of the site with a common direction; blond on some light skin. Returns (size,size,3) 0..1."""
    count = int(c.site.hairs * c.rng.uniform(0.3, 1.3))
    if not count:
        return image
    a, spread, lines = c.rng.uniform(0, 6.28), 0.3 if c.site.hairs > 60 else 0.5, []
    for _ in range(count):
        x, y, length = *c.rng.uniform(0, 1, 2), c.site.hair_length * c.rng.uniform(0.6, 1.3)
        lines.append(wavy(c, x, y, a + c.rng.normal(0, spread), length, 0.10 * length))
    blond = c.tone <= 3 and c.rng.random() < 0.4
    colour = np.array((142, 108, 70) if blond else (40, 28, 22), np.float32) / 255
    w = c.strokes(lines, c.rng.uniform(0.0030, 0.0046), 2)[..., None] * (0.45 if blond else 0.7)
    return image + w * (colour - image)


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
    flat_shine = float(half[2] ** 28)  # flat skin's reflection is part of the skin's own colour already
    lamp = rng.uniform(0.2, 0.8, 2)
    pool = np.exp(-((c.x - lamp[0]) ** 2 + (c.y - lamp[1]) ** 2) / 0.16)
    shade = 0.36 + 0.64 * np.minimum(lambert, 1.75)
    fall = 1 + rng.uniform(0, 0.16) * ((c.x - 0.5) * light[0] + (c.y - 0.5) * light[1]) * 2
    fall *= 1 - rng.uniform(0.05, 0.34) * ((c.x - 0.5) ** 2 + (c.y - 0.5) ** 2) * 2
    across = (c.x - 0.5) * np.cos(c.limb_angle) + (c.y - 0.5) * np.sin(c.limb_angle)
    if c.limb:
        q = np.clip(across / c.limb_half, -1, 1)
        fall *= 0.45 + 0.55 * np.sqrt(1 - 0.9 * q * q)
    glow = c.gloss * (0.10 * pool * (0.6 + 0.4 * c.fine) + 0.55 * (shine - flat_shine)) + 0.75 * c.shine
    image = c.albedo * (shade * fall)[..., None] + np.clip(glow, 0, 0.9)[..., None]
    image = add_hairs(c, image)
    if c.limb:
        drape = (
            np.array(((70, 104, 130), (60, 110, 96), (196, 200, 202), (44, 46, 52))[rng.integers(4)]) / 255
        )
        drape = drape * (1 + 0.05 * c.broad + 0.03 * c.fine)[..., None] * fall[..., None]
        shadow = 0.55 + 0.45 * np.clip((np.abs(across) - c.limb_half) / 0.07, 0, 1)
        skin = soft(np.abs(across) - 0.006 * c.broad, c.limb_half, 0.008)[..., None]
        image = drape * shadow[..., None] * (1 - skin) + image * skin
    image = image * rng.normal(1, 0.026, 3) * rng.normal(0.96, 0.05)
    image = image + rng.uniform(0.004, 0.016) * rng.standard_normal(image.shape, dtype=np.float32)
    pixels = Image.fromarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8))
    return np.asarray(pixels.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.62) * c.size / 224)))
