"""Files of weights of any layout, read from their headers first."""
