"""Ratings by people: the blinded form, its store and its summary."""
