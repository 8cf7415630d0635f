"""TODO skingpt4/config."""
