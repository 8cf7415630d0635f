"""Other people's models in this process: their files, their templates, and the likelihood of given answers."""
