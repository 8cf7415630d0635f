"""Cases, arms and the conversation with each case."""
