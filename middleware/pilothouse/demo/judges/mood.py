"""Mood by VADER (Hutto and Gilbert, 2014): a lexicon of rated words with rules."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from pilothouse.demo.judges.judge import Judge
from pilothouse.errors import ConfigError

MARGIN: Final = 0.05


@cache
def _analyzer() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise ConfigError(
            "mood: the package vaderSentiment is not installed: pip install 'pilothouse[card]'"
        ) from error
    return SentimentIntensityAnalyzer()


def mood(text: str) -> float:
    """Return the share of a text that is glad less the share that is sad, from -1 to 1.

    Not VADER's compound: that sums ratings and presses the sum into -1 to 1, so that any three glad
    words are as glad as ten, and one word more or less turns it. 0 for a text without words.
    """
    if not text.strip():
        return 0.0
    found = _analyzer().polarity_scores(text)
    return float(found["pos"] - found["neg"])


MOOD: Final = Judge(
    "mood", "share of an answer that VADER rates glad less what it rates sad", mood, MARGIN
)
