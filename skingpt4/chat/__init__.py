"""TODO skingpt4/chat."""
