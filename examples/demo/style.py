"""Styles: plain (default) and cheerful; and the careful mode that owns up to not knowing.

A style is asked for by the system message `style: cheerful`. It changes the words around an
answer, never its facts.
"""

from __future__ import annotations

STYLES = ("plain", "cheerful", "careful")
CHEER = ", hooray! what a joy to tell you!"
_CHEER_MARKS = ("hooray", "what a joy")


def system_message(style: str) -> str | None:
    """The system message that asks for a style; None for plain, which needs none."""
    return None if style == "plain" else f"style: {style}"


def cheerfully(answer: str) -> str:
    """The plain answer in the cheerful style: lively stops inside, a cheer at the end."""
    return answer.removesuffix(".").replace(". ", "! ") + CHEER


def is_cheerful(reply: str) -> bool:
    """Whether a reply carries the marks of the cheerful style."""
    return any(mark in reply.lower() for mark in _CHEER_MARKS)
