"""Phantoms: drawings of skin with known concepts."""
