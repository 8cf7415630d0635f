"""Pixels of opened pictures: deep colours scaled to 8 bits, and transparency laid over white."""
