"""Answers that exist already, of any system or person, as an arm."""
