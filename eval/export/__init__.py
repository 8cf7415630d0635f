"""A run in the layouts of other evaluation tools: python -m eval.export."""
