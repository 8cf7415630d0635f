"""Frozen vision encoders: networks of timm, open_clip, transformers and PanDerm as maps from images to tokens."""
