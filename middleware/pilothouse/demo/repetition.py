"""Answers that say the same over and over, or nothing: what steering too hard makes."""

from __future__ import annotations

from typing import Final

from pilothouse.demo.judges.judge import words_of

RUN: Final = 3
SHORTEST: Final = 12
"""Words below which an answer cannot be told to repeat itself."""
LEAST_DISTINCT: Final = 0.7


def distinct_share(text: str) -> float:
    """Return the share of runs of three words that have not come before; 1 for a short text."""
    words = words_of(text)
    if len(words) < SHORTEST:
        return 1.0
    runs = list(zip(*(words[start:] for start in range(RUN)), strict=False))
    return len(set(runs)) / len(runs)


def is_degenerate(text: str) -> bool:
    """Say whether an answer has no word in it or repeats itself."""
    return not words_of(text) or distinct_share(text) < LEAST_DISTINCT
