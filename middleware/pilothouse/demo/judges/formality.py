"""Register: a readability grade, less what only speech has."""

from __future__ import annotations

from typing import Final

from pilothouse.demo.judges.judge import Judge, per_hundred, sentences_of, words_of

MARGIN: Final = 4.0
CONTRACTED: Final = ("n't", "'re", "'ve", "'ll", "'m", "'d", "'em", "in'")
IS_CONTRACTED: Final = frozenset(
    {
        "it's",
        "that's",
        "there's",
        "what's",
        "who's",
        "here's",
        "he's",
        "she's",
        "let's",
        "how's",
        "where's",
        "'cause",
        "ma'am",
        "y'all",
    }
)
COLLOQUIAL: Final = frozenset(
    {
        "gonna",
        "wanna",
        "gotta",
        "kinda",
        "sorta",
        "lemme",
        "gimme",
        "dunno",
        "yeah",
        "yep",
        "nope",
        "yup",
        "hey",
        "hi",
        "wow",
        "ugh",
        "oh",
        "okay",
        "ok",
        "cool",
        "awesome",
        "super",
        "totally",
        "stuff",
        "guys",
        "guy",
        "folks",
        "kid",
        "kids",
        "buddy",
        "dude",
        "man",
        "bunch",
        "cash",
        "pretty",
        "crazy",
        "basically",
        "literally",
        "honestly",
        "anyway",
        "huh",
        "btw",
        "lol",
        "oops",
        "yikes",
        "tons",
        "lots",
        "fun",
        "yummy",
        "nah",
        "haha",
        "boom",
        "stuck",
        "weird",
        "crap",
    }
)


def coleman_liau(text: str) -> float:
    """Return the Coleman-Liau index: the school grade that a text asks for, from letters alone.

    Source: Coleman and Liau, 1975. A text without words has the grade 0.
    """
    words = words_of(text)
    if not words:
        return 0.0
    letters = sum(len(each.replace("'", "")) for each in words)
    sentences = max(1, len(sentences_of(text)))
    return 5.88 * letters / len(words) - 29.6 * sentences / len(words) - 15.8


def colloquial_marks(text: str) -> int:
    """Return how many contractions, colloquial words and exclamation marks a text has."""
    words = words_of(text)
    spoken = sum(
        each in COLLOQUIAL or each in IS_CONTRACTED or each.endswith(CONTRACTED) for each in words
    )
    return spoken + text.count("!")


def formality(text: str) -> float:
    """Return the grade less the colloquial marks in a hundred words."""
    return coleman_liau(text) - per_hundred(colloquial_marks(text), text)


FORMALITY: Final = Judge(
    "formality", "Coleman-Liau grade less colloquial marks in 100 words", formality, MARGIN
)
