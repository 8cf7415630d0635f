"""TODO eval/formats."""
