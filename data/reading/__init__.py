"""TODO data/reading."""
