"""Escapes and bounds foreign text in a log line, so that it can end no line and colour none.

Every `%s` of a log line of ours takes its text from here; a test reads the calls. What stands there
is ASCII whatever came in: control characters, escapes of terminals, separators of lines, lone
surrogates and letters outside ASCII are written as Python writes them in a string.
"""

from __future__ import annotations

from typing import Final

MOST_CHARACTERS: Final = 200
"""Of a word or name, before it is escaped."""
MOST_LINE_CHARACTERS: Final = 500
"""Of one line of a longer text."""
MOST_LINES: Final = 60
INDENT: Final = "\n  | "
"""Before every line of a longer text but its first, so that none can pass for a line of the log."""


def log_text(text: object) -> str:
    """Return a word, name or sentence of somebody else's, in quotes on one line."""
    whole = str(text)
    return ascii(whole[:MOST_CHARACTERS]) + _left_out(whole, MOST_CHARACTERS)


def log_lines(text: object) -> str:
    """Return a text of several lines, such as a traceback; the middle may be left out."""
    lines = str(text).split("\n")
    over = len(lines) - MOST_LINES
    if over > 0:
        half = MOST_LINES // 2
        lines = [*lines[:half], f"... ({over} lines left out)", *lines[-half:]]
    return INDENT.join(unprintable_escaped(line, MOST_LINE_CHARACTERS) for line in lines)


def unprintable_escaped(text: str, most: int) -> str:
    """Return one line without quotes, for a place that has its own."""
    return ascii(text[:most])[1:-1] + _left_out(text, most)


def _left_out(text: str, most: int) -> str:
    return f"... ({len(text)} characters)" if len(text) > most else ""
