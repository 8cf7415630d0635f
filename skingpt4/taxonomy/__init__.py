"""Concepts, classes and diseases, and how free text is read in terms of them."""
