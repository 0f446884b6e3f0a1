"""What a judge is: a number for a text, and how far it must move for an answer to count."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

WORD: Final = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")
SENTENCE_END: Final = re.compile(r"[.!?…]+(?=\s|$)|\n+")

Sign = Literal[1, -1]


@dataclass(frozen=True, slots=True)
class Judge:
    """A measure of texts that needs no model that is steered.

    Args:
        name: how cards name it.
        measure: what its number is, in words.
        score: the number of a text.
        margin: how far the number of an answer must move, from the plain answer of the same
            question, for the answer to count as changed.
        max_tokens: how long answers are for it.
    """

    name: str
    measure: str
    score: Callable[[str], float]
    margin: float
    max_tokens: int = 32

    def changed(self, plain: float, steered: float, sign: Sign) -> bool:
        """Say whether an answer moved by the margin towards the pole that `sign` stands for."""
        # Scores are sums of floats: a margin that is met must not be lost to rounding.
        return sign * (steered - plain) >= self.margin - 1e-9


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, each with its apostrophes made straight."""
    return [each.replace("\u2019", "'").casefold() for each in WORD.findall(text)]


def sentences_of(text: str) -> list[str]:
    """Return what stands between ends of sentences and lines, where it holds a word."""
    return [each.strip() for each in SENTENCE_END.split(text) if WORD.search(each)]


def per_hundred(count: float, text: str) -> float:
    """Return how many of something there are in a hundred words; 0 for a text without words."""
    total = len(words_of(text))
    return 100.0 * count / total if total else 0.0
