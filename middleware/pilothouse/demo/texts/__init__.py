"""Labelled texts of other projects, read out of pinned wheels that are never imported.

Many of them are harmful. They are read when they are needed, and never written anywhere but into
the cache of activations, as numbers.
"""
