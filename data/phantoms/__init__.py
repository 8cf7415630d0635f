"""Phantoms: drawings of skin with known concepts."""

WARNING = "Phantoms are drawings with no clinical meaning."
