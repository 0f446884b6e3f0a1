"""Pilothouse: steering and monitoring inside the forward pass of a vLLM server."""

__version__ = "0.1.0"
