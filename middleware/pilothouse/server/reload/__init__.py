"""Reload: a new plan takes the place of the one that is served."""
