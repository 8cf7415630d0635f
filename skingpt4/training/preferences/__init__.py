"""Training on pairs of answers of which people preferred one (step: dpo)."""
