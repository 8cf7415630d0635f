"""The HTTP API: endpoints.py has one method a route; request, response and answering are what they are made of."""
