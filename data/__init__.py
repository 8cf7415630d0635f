"""What makes training records: the bundled phantoms."""
