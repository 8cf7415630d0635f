"""The start of a projection from the labels of its training records."""
