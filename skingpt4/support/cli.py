"""What the command lines share: the disclaimer."""

from __future__ import annotations

NOT_A_DEVICE = "Research software, not a medical device."
DISCLAIMER = f"{NOT_A_DEVICE} Its answers are not a diagnosis; ask a doctor."
