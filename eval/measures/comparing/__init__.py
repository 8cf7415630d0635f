"""Differences: between arms, between groups of cases, and between recipes that were trained several times."""
