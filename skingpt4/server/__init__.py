"""TODO skingpt4/server."""
