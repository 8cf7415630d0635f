"""A model behind a server in the shape of OpenAI's API."""
