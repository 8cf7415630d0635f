"""An open SkinGPT-4: research software, not a medical device."""

__version__ = "0.1.0"
