"""Pretrained weights from their sources to the weights folder."""
