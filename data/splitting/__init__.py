"""Splits without leaks: how records are assigned, and a sheet of the pairs to judge by eye."""
