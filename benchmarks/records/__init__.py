"""TODO benchmarks/records."""
