"""From a source's files to a manifest."""
