"""The commands that train, besides train.py."""
