"""Peak host memory, measured and estimated."""
