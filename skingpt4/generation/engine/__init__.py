"""Answers that a vLLM server writes, or llama.cpp in this process."""
