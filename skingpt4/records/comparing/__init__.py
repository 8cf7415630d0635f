"""What identifies the image of a record, and the checks for duplicates and overlap that compare it."""
