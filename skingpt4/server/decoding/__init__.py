"""Pictures that come from outside are decoded in turns, each in a process of its own that has limits."""
