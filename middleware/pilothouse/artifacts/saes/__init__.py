"""Sparse autoencoders: what is loaded, and one file for each foreign format."""
