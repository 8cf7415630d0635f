"""TODO skingpt4/server/http."""
