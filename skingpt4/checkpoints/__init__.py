"""Checkpoints: the trainable tensors, a card, and how a model is loaded from them."""
