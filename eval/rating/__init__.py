"""TODO eval/rating."""
