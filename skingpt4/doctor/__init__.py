"""TODO skingpt4/doctor."""
