"""The processes of a run: how they were launched, what they share, and how they end together."""
