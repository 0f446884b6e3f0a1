"""Metrics and log lines of the server."""
