"""TODO skingpt4/support."""
