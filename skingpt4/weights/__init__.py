"""Pretrained weights: files, catalogue, downloads, deltas."""
