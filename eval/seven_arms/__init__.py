"""An evaluation with seven arms of six kinds on the bundled default: python -m eval.seven_arms."""
