"""TODO eval/measures."""
