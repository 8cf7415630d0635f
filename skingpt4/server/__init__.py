"""Servers for the machine's own users: the consultation page and the HTTP API."""
