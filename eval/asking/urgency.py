"""How soon a patient should be seen."""

URGENCY = ("self-care", "routine", "soon", "today")  # from least to most urgent
