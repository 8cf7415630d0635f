"""TODO skingpt4/checkpoints."""
