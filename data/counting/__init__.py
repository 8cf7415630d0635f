"""TODO data/counting."""
