"""TODO skingpt4/generation."""
