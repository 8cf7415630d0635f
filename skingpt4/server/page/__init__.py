"""TODO skingpt4/server/page."""
