"""Finds answers that repeat themselves or say nothing, as steering too hard makes them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from itertools import groupby
from typing import Final

from pilothouse.demo.judges.judge import words_of

RUN: Final = 3
SHORTEST: Final = 8
"""Shorter answers, in words, are too short to repeat runs of words."""
LEAST_DISTINCT: Final = 0.7
LEAST_WORDS: Final = 4
"""In answers of fewer words one word is no refrain."""
MOST_ONE_WORD: Final = 0.5
PICTOGRAM: Final = "So"
"""Unicode's category of emoji and the like."""
MOST_SYMBOLS: Final = 3


def distinct_share(text: str) -> float:
    """Return the share of runs of three words that have not come before; 1 for a short text."""
    words = words_of(text)
    if len(words) < SHORTEST:
        return 1.0
    runs = list(zip(*(words[start:] for start in range(RUN)), strict=False))
    return len(set(runs)) / len(runs)


def commonest_share(text: str) -> float:
    """Return the share of words that are the commonest one; 0 for very few words."""
    words = words_of(text)
    if len(words) < LEAST_WORDS:
        return 0.0
    return Counter(words).most_common(1)[0][1] / len(words)


def longest_symbol_run(text: str) -> int:
    """Return how often a pictogram stands in a row at most; rules and dots are no pictograms."""
    runs = groupby(each for each in text if not each.isspace())
    return max(
        (len(list(run)) for symbol, run in runs if unicodedata.category(symbol) == PICTOGRAM),
        default=0,
    )


def is_degenerate(text: str) -> bool:
    """Say whether an answer has no word in it, or repeats words or pictograms."""
    return (
        not words_of(text)
        or distinct_share(text) < LEAST_DISTINCT
        or commonest_share(text) > MOST_ONE_WORD
        or longest_symbol_run(text) > MOST_SYMBOLS
    )
