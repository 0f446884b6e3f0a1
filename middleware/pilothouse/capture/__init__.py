"""Activations on disk: what was asked for, the index of what is there, and how to read it."""
