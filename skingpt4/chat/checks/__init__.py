"""Checks around the model: the quality of the images that it is shown, and cautions beside what it answers."""
