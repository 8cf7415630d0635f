"""TODO skingpt4/training."""
