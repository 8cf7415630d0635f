"""Training a Q-Former for a backbone: BLIP-2's objectives and reconstruction of what the backbone saw."""
