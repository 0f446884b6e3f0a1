"""Length in words, on a scale on which 1 is half as many: what is shorter has the higher number."""

from __future__ import annotations

import math
from typing import Final

from pilothouse.demo.judges.judge import Judge, words_of

TOKENS: Final = 48


def halvings(text: str) -> float:
    """Return minus the base-2 logarithm of the number of words; none count as one."""
    return -math.log2(max(1, len(words_of(text))))


LENGTH: Final = Judge(
    "length",
    f"minus the base-2 logarithm of the number of words within {TOKENS} tokens",
    halvings,
    1.0,
    max_tokens=TOKENS,
)
