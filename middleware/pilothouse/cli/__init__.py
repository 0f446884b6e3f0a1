"""The `pilothouse` command."""

from pilothouse.cli.main import main

__all__ = ["main"]
