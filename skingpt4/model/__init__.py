"""TODO skingpt4/model."""
