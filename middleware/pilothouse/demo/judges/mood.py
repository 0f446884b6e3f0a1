"""Mood by VADER (Hutto and Gilbert, 2014): a lexicon of rated words with rules."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from pilothouse.demo.judges.judge import Judge
from pilothouse.errors import ConfigError

MARGIN: Final = 0.2


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
    """Return the compound of a text, from -1 for the saddest to 1; 0 for a text without words."""
    return float(_analyzer().polarity_scores(text)["compound"]) if text.strip() else 0.0


MOOD: Final = Judge("mood", "VADER's compound of an answer", mood, MARGIN)
