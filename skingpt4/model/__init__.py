"""The network and its parts: vision encoder, Q-Former, projection, language model, prompts, loss."""
