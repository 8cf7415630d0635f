"""TODO eval/page."""
