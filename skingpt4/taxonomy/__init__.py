"""TODO skingpt4/taxonomy."""
