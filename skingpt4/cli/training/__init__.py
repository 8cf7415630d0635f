"""The commands that train or fit, besides train.py."""
