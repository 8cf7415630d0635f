"""Public data sets: what each one's files look like, and how they become rows."""
