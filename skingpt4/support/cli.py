"""What the command lines share."""

from __future__ import annotations

DISCLAIMER = "Research software, not a medical device. Its answers are no diagnosis; ask a doctor."
