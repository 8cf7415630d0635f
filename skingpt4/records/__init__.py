"""Records of pictures: manifests, archives, images, duplicates and overlap."""
