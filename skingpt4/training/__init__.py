"""The two fine-tuning steps."""
