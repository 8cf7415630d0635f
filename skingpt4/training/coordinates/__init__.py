"""The coordinates in which a projection is trained, from cached features and the labels of their records."""
