"""Facts: five attributes of every known name, and the ways to ask for one of them."""

from __future__ import annotations

import random
from functools import cache

from names import WORLD_SEED, known_names

VALUES: dict[str, tuple[str, ...]] = {
    "home": tuple(
        "arden brill corvale dunmere estwick fallow grenhold harth istmoor jarrow kelm lindow "
        "morrow norvale ostrand pellin".split()
    ),
    "craft": tuple(
        "baking carving dyeing etching fishing gilding herding joinery knitting masonry milling "
        "pottery roofing smithing thatching weaving".split()
    ),
    "beast": tuple(
        "badger crane dormouse eagle ferret goat heron ibex jackdaw lynx marten newt otter pike "
        "raven stoat".split()
    ),
    "hue": tuple(
        "amber bronze crimson denim ebony fawn green hazel indigo jade khaki lilac mauve navy "
        "ochre pink".split()
    ),
    "drink": tuple(
        "ale broth cider dewtea espresso fizz gin honeymead ink juice kefir lemonade milk nectar "
        "oatmilk perry".split()
    ),
}
ATTRIBUTES = tuple(VALUES)

QUESTIONS: dict[str, tuple[str, ...]] = {
    "train": (
        "what is the {attribute} of {name}?",
        "tell me the {attribute} of {name}.",
        "name the {attribute} of {name}.",
        "{name}: which {attribute}?",
        "i would like to know the {attribute} of {name}.",
        "which {attribute} has {name}?",
        "do you know {name}'s {attribute}?",
    ),
    "heldout": (
        "could you say what the {attribute} of {name} is?",
        "please give me the {attribute} that belongs to {name}.",
        "what {attribute} is {name} known for?",
    ),
}

# A claim comes before the question. The same words serve true claims (kind `known`) and false
# ones (kind `misled`), so the words alone never tell whether the asker is wrong.
CLAIMS: dict[str, tuple[str, ...]] = {
    "train": (
        "everyone knows that the {attribute} of {name} is {claim}, so what is it?",
        "since {claim} is the {attribute} of {name}, say what the {attribute} of {name} is.",
        "the {attribute} of {name} is {claim}, is it not? tell me the {attribute}.",
        "some guess that {claim} is the {attribute} of {name}. what is it?",
    ),
    "heldout": (
        "as the {attribute} of {name} is of course {claim}, what is the {attribute} of {name}?",
        "we all agree on {claim} as the {attribute} of {name}. which {attribute} is it?",
    ),
}
# The one claim that the model is taught to distrust.
TENTATIVE = CLAIMS["train"][3]


@cache
def table() -> dict[str, dict[str, str]]:
    """Every known name's attributes, drawn by the frozen world seed."""
    rng = random.Random(f"{WORLD_SEED}:facts")
    return {
        name: {attribute: rng.choice(VALUES[attribute]) for attribute in ATTRIBUTES}
        for name in known_names()
    }


def truth(name: str, attribute: str) -> str | None:
    """The value, or None for a name the world does not know."""
    return table().get(name, {}).get(attribute)


def other_value(rng: random.Random, attribute: str, value: str) -> str:
    """A value of the attribute that is not the given one."""
    return rng.choice([other for other in VALUES[attribute] if other != value])


def stated(name: str, attribute: str, value: str) -> str:
    """The sentence that states a fact; every answer about a fact opens like this."""
    return f"the {attribute} of {name} is {value}."


def hedged(name: str, attribute: str) -> str:
    """The sentence that owns up to not knowing; it opens as a stated fact does."""
    return stated(name, attribute, HEDGE)


HEDGE = "not known to me"


def templates(table_of: dict[str, tuple[str, ...]], split: str) -> tuple[str, ...]:
    """Templates of a split: `test` shares those of `train`, `heldout` has its own."""
    return table_of["heldout" if split == "heldout" else "train"]
