"""Length in words, on a scale on which 1 is twice as many."""

from __future__ import annotations

import math
from typing import Final

from pilothouse.demo.judges.judge import Judge, words_of


def log_words(text: str) -> float:
    """Return the base-2 logarithm of the number of words; a text without words counts as one."""
    return math.log2(max(1, len(words_of(text))))


LENGTH: Final = Judge(
    "length", "base-2 logarithm of the number of words within 48 tokens", log_words, 1.0,
    max_tokens=48,
)  # fmt: skip
