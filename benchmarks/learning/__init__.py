"""How fast a configuration learns."""
