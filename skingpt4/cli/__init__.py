"""TODO skingpt4/cli."""
