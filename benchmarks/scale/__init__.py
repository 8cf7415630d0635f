"""Training on many GPUs, calculated from shapes: memory, communication, throughput."""
