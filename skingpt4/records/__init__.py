"""Records of images: format, manifests, archives, duplicates and overlap."""
