"""An open SkinGPT-4: research software, no medical device."""

__version__ = "0.1.0"
