"""Benchmarks of manifests, preparation and picture quality."""
