"""What a run needs, checked before anything large is loaded."""
