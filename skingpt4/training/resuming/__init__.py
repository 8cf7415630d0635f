"""A run that goes on where it stopped: its folder, its state, and what may not have changed."""
