"""TODO skingpt4/weights/fetch."""
