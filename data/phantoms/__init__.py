"""TODO data/phantoms."""
