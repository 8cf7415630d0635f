"""TODO benchmarks/memory."""
