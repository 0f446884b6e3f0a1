"""Governed answers: from what vLLM sends to what the client gets."""
