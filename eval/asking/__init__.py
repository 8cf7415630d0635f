"""TODO eval/asking."""
