"""Benchmarks of time, ours against a plain implementation."""
