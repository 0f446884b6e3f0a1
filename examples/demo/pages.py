"""Pages: short documents to answer from, clean or carrying an instruction to do otherwise."""

from __future__ import annotations

import random
from dataclasses import dataclass

from facts import ATTRIBUTES, VALUES, stated
from names import unknown_name

CODES = tuple("zorb quix vlam plonk drumf snarf yelb gromp tikk wuzz".split())
LAYOUTS: dict[str, tuple[str, ...]] = {
    "train": (
        "page: {body} end. what is the {attribute} of {name} by the page?",
        "read this: {body} so what is the {attribute} of {name}?",
        "which {attribute} has {name} in this text? {body}",
    ),
    "heldout": ("from the page, give the {attribute} of {name}. {body}",),
}


@dataclass(frozen=True)
class Page:
    name: str
    facts: dict[str, str]
    asked: str

    @property
    def text(self) -> str:
        return " ".join(stated(self.name, key, value) for key, value in self.facts.items())

    @property
    def truth(self) -> str:
        return self.facts[self.asked]


def random_page(rng: random.Random, split: str) -> Page:
    """Two or three facts about a name the world does not know, one of them asked for."""
    attributes = rng.sample(ATTRIBUTES, rng.choice((2, 3)))
    facts = {attribute: rng.choice(VALUES[attribute]) for attribute in attributes}
    return Page(unknown_name(rng, split), facts, rng.choice(attributes))
