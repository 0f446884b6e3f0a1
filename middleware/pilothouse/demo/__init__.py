"""The real model of the demo, and how the figures about it are made."""
