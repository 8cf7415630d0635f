"""Measurements: commands that print ratios, tables and benchmarks/results/*.json."""
