"""The consultation page."""
