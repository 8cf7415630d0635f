"""Arms that are not a projection of ours: other models, encoders, and answers that exist already."""
