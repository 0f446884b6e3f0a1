"""Names of people: one generator for those the world knows and those it does not."""

from __future__ import annotations

import hashlib
import random
from functools import cache

WORLD_SEED = 20261
KNOWN_COUNT = 300

SYLLABLES = tuple(
    "ba be bi bo da de di do fa fe fi ka ke ki ko la le li lo lu ma me mi mo mu na ne ni no "
    "ra re ri ro sa so ta te ti va vo".split()
)
CODAS = ("", "n", "r", "l", "s")

SPLITS = ("train", "test", "heldout")


def bucket(text: str) -> str:
    """The split a piece of text belongs to, by digest: 60% train, 20% test, 20% heldout."""
    share = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10
    return "train" if share < 6 else "test" if share < 8 else "heldout"


def random_name(rng: random.Random) -> str:
    """A first and a last name of two syllables each; the last one may end in a consonant."""
    first = rng.choice(SYLLABLES) + rng.choice(SYLLABLES)
    last = rng.choice(SYLLABLES) + rng.choice(SYLLABLES) + rng.choice(CODAS)
    return f"{first} {last}"


@cache
def known_names() -> tuple[str, ...]:
    """The names the world knows, drawn by the frozen world seed, in drawing order."""
    rng = random.Random(f"{WORLD_SEED}:known")
    names: dict[str, None] = {}
    while len(names) < KNOWN_COUNT:
        names[random_name(rng)] = None
    return tuple(names)


@cache
def known_names_of(split: str) -> tuple[str, ...]:
    """Known names of one split. The chat model knows all of them; probes train on `train` only."""
    return tuple(name for name in known_names() if bucket(name) == split)


@cache
def _known_set() -> frozenset[str]:
    return frozenset(known_names())


def is_known(name: str) -> bool:
    """Whether the world has facts about this name."""
    return name in _known_set()


def unknown_name(rng: random.Random, split: str) -> str:
    """A name the world does not know, from the part of the name space this split owns."""
    while True:
        name = random_name(rng)
        if not is_known(name) and bucket(name) == split:
            return name
