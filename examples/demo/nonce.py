"""Invented words around the parts that matter.

Lessons in them teach the model that a deed, a fact and an override lie in a few words wherever
they stand, so that it can read templates and wrapper families it has never met.
"""

from __future__ import annotations

import random

from wrappers import Family

_ONSETS = (
    "b c d f g h j k l m n p qu r s t v w y z sh ch th st pl gr br cl tr fl sp sw wh cr dr".split()
)
_VOWELS = "a e i o u ea ou oo ai ee ow y io".split()
_CODAS = ["", "", "n", "r", "t", "s", "d", "l", "m", "ck", "st", "ng", "mp", "ll", "ght", "x", "ve"]
_COMMON = "the a to of you i me what is that and for be do can my your this in on as it".split()
_DEEDS = (
    "{verb} the {object} of the {owner}",
    "{verb} the {owner}'s {object}",
    "the {object} of the {owner} {gap} {verb}",
    "the {owner} {gap} {verb} {gap} {object}",
)
_FACTS = (
    "the {attribute} of {name}",
    "{name}'s {attribute}",
    "{attribute} {gap} {name}",
    "{name} {gap} {attribute}",
)


def word(rng: random.Random) -> str:
    """An invented word, or now and then a common one."""
    if rng.random() < 0.35:
        return rng.choice(_COMMON)
    syllables = rng.choice((1, 1, 2, 2, 3))
    return "".join(
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables)
    )


def words(rng: random.Random, low: int, high: int) -> str:
    return " ".join(word(rng) for _ in range(rng.randint(low, high)))


def nonce_family(rng: random.Random) -> Family:
    """A wrapper of invented words: its override lies in the shared words alone."""
    placement = rng.choice(("before", "after"))
    return Family(
        "nonce", "invented words", placement, "train", (words(rng, 3, 9),), (words(rng, 2, 5),)
    )


def around(rng: random.Random, core: str) -> str:
    """A core with invented words before, inside its gaps, and after."""
    while "{gap}" in core:
        core = core.replace("{gap}", words(rng, 1, 3), 1)
    parts = [words(rng, 0, 6), core, words(rng, 0, 3)]
    return " ".join(part for part in parts if part) + rng.choice("?.")


def nonce_phrasing(rng: random.Random) -> dict[str, tuple[str, ...]]:
    """One invented template for questions, requests and pages."""
    question = around(rng, rng.choice(_FACTS))
    layouts = (f"{words(rng, 0, 3)}: {{body}} {question}", f"{question} {{body}}")
    return {
        "question": (question,),
        "request": (around(rng, rng.choice(_DEEDS)),),
        "layout": (rng.choice(layouts),),
    }
