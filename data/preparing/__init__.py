"""TODO data/preparing."""
