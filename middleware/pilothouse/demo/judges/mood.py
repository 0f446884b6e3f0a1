"""Mood by VADER (Hutto and Gilbert, 2014): a lexicon of rated words with rules."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

from pilothouse.demo.judges.judge import WORD, Judge
from pilothouse.errors import ConfigError

SPLIT: Final = re.compile(r"(?<=[.!?…])\s+|\n+")
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
    """Return the mean compound of the text's sentences, from -1 to 1; 0 for a text without words.

    Of a whole answer the compound is near 1 for any friendly text of some length; of sentences it
    still tells texts apart. Marks stay with their sentence, since VADER reads them.
    """
    sentences = [each for each in SPLIT.split(text) if WORD.search(each)]
    if not sentences:
        return 0.0
    scores = [float(_analyzer().polarity_scores(each)["compound"]) for each in sentences]
    return sum(scores) / len(scores)


MOOD: Final = Judge("mood", "mean VADER compound of an answer's sentences", mood, MARGIN)
