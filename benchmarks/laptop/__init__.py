"""The own decoder on a laptop's processor against engines made for it."""
