"""The commands behind `skingpt4 COMMAND`."""
