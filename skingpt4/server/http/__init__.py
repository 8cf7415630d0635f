"""The HTTP API: routes.py has one method a route; request, response and answering are what they are made of."""
