"""Probes: what each stage from a picture to an answer still holds."""
