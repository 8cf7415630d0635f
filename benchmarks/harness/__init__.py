"""TODO benchmarks/harness."""
