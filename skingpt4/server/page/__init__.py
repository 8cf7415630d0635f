"""The consultation page: layout.py places the controls and connects each of them with its method in handlers.py."""
