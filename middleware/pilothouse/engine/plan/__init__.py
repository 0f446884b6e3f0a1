"""The plan: what is loaded where, made from files and checked before anything starts."""
