"""TODO skingpt4/records."""
