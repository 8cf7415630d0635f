"""TODO skingpt4/weights."""
