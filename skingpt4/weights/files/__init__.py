"""TODO skingpt4/weights/files."""
