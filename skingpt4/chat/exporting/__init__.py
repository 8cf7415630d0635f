"""A consultation as a record, and the files that are written from it."""
