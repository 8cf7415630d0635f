"""Rates, intervals, tests and agreement."""
