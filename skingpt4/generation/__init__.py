"""Answers from the network: sampling, decoding of many conversations, scoring of closed sets."""
