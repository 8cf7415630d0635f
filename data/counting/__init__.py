"""Counts of a manifest and figures of them."""
