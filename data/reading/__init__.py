"""Tables and fields of sources."""
