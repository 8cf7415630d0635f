"""From collections of images to manifests: sources, splits, checks, counts, and the bundled phantoms."""
