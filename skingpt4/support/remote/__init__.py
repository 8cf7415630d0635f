"""Servers that a program of ours asks: their addresses, their keys, and what becomes of their answers."""
