"""What prepares the software and its models for other machines."""
