"""Peak memory, measured and estimated."""
