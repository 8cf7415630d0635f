"""Measurements: whole commands that print ratios and write benchmarks/results/*.json."""
