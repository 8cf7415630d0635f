"""The configuration: its keys, how it is loaded and what is allowed."""
