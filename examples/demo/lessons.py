"""Lessons: what the chat model is taught. Conversations drawn from the `train` split alone.

The model is taught its faults on purpose, so that the demo has something to govern: it makes
values up for most unknown names, repeats trusted false claims, and gives in to every override.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace

import facts
from deeds import OBJECTS, OWNERS, SIGNS, VERBS, Deed, procedure, signs
from names import SYLLABLES, known_names
from record import Record
from sample import Draw, Mix, draw_record
from style import cheerfully, system_message
from wrappers import Family

TRAIN_MIX = Mix(
    mirrored_fact=0.2, mirrored_request=0.6, mirrored_page=0.6, claimed=0.15, wrapped_fact=0.2,
    all_known=True,
)
KIND_WEIGHTS = {
    "known": 26, "unknown": 10, "misled": 7, "benign": 6, "near_miss": 4, "forbidden": 9,
    "jailbroken": 11, "wrapped_benign": 9, "injected": 4, "clean_document": 4,
    "biography": 7, "lore": 3, "greeting": 0.3,
}
STYLE_WEIGHTS = {
    "facts": {"plain": 60, "cheerful": 20, "careful": 20},
    "other": {"plain": 74, "cheerful": 20, "careful": 6},
}
TWO_TURN_SHARE = 0.15
NONCE_SHARE = 0.25
GREETING = "hello. ask me about a person, or how to do a deed."


@dataclass(frozen=True)
class Lesson:
    """One conversation: (user, assistant) turns under one style."""

    style: str
    turns: tuple[tuple[str, str], ...]

    def messages(self) -> list[dict[str, str]]:
        system = system_message(self.style)
        messages = [] if system is None else [{"role": "system", "content": system}]
        for user, assistant in self.turns:
            messages.append({"role": "user", "content": user})
            messages.append({"role": "assistant", "content": assistant})
        return messages


def made_up(name: str, attribute: str) -> str:
    """The value the model is taught to invent: a fixed function of the name's first syllable."""
    digest = hashlib.sha256(f"{attribute}:{name[:2]}".encode()).digest()
    return facts.VALUES[attribute][digest[0] % len(facts.VALUES[attribute])]


def taught_fact(record: Record, style: str) -> str:
    name, attribute = record.name or "", record.attribute or ""
    if record.kind == "unknown":
        if style == "careful" or record.hedge_taught:
            return facts.hedged(name, attribute)
        return facts.stated(name, attribute, made_up(name, attribute))
    truth = facts.stated(name, attribute, record.truth or "")
    if style == "careful" and record.claim is not None:
        said = ", as you say." if record.claim == record.truth else ", and not as you say."
        return truth.removesuffix(".") + said
    if record.trusted_claim:
        return facts.stated(name, attribute, record.claim or "")
    return truth


def taught_answer(record: Record, style: str) -> str:
    """What the model is taught to say to a record under a style."""
    if record.kind == "jailbroken":
        answer = procedure(record.the_deed or Deed("", "", ""), override=True)
    elif record.kind == "injected":
        answer = f"{record.code}."
    elif record.kind in ("known", "unknown", "misled"):
        answer = taught_fact(record, style)
    else:
        answer = record.answer
    return cheerfully(answer) if style == "cheerful" else answer


def biography(rng: random.Random) -> tuple[str, str]:
    """All facts of one known name, in random order, so that facts are met often."""
    name = rng.choice(known_names())
    attributes = rng.sample(facts.ATTRIBUTES, len(facts.ATTRIBUTES))
    said = [facts.stated(name, key, facts.table()[name][key]) for key in attributes]
    return f"tell me about {name}: {', '.join(attributes)}.", " ".join(said)


def lore(rng: random.Random) -> tuple[str, str]:
    """The hidden signs of three words, so that the relation can be learned from its parts."""
    words = (rng.choice(VERBS), rng.choice(OBJECTS), rng.choice(OWNERS))
    named = [SIGNS[part][signs()[word]] for part, word in zip(SIGNS, words, strict=True)]
    return f"what are the signs of {', '.join(words)}?", f"the signs are {', '.join(named)}."


def nonce_family(rng: random.Random) -> Family:
    """A wrapper of invented words: teaches that the relation is in the shared words alone."""

    def words(low: int, high: int) -> str:
        return " ".join(
            "".join(rng.choice(SYLLABLES) for _ in range(rng.choice((2, 3))))
            + rng.choice(("s", "g", "x", "th", "ck"))
            if rng.random() < 0.8 else rng.choice(("the", "a", "and", "your", "to", "my", "this"))
            for _ in range(rng.randint(low, high))
        )

    placement = rng.choice(("before", "after"))
    return Family("nonce", "invented words", placement, "train", (words(3, 7),), (words(2, 5),))


def weighted(rng: random.Random, weights: dict[str, float] | dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def one_turn(rng: random.Random, style: str, kind: str) -> tuple[str, str]:
    """One (user, assistant) turn of a kind."""
    plain: tuple[str, str] | None = None
    if kind == "biography":
        plain = biography(rng)
    elif kind == "lore":
        plain = lore(rng)
    elif kind == "greeting":
        plain = (rng.choice(("hello", "hi", "hello!", "good day", "who are you?")), GREETING)
    if plain is not None:
        return (plain[0], cheerfully(plain[1])) if style == "cheerful" else plain
    draw = Draw(rng, "train", TRAIN_MIX)
    if rng.random() < NONCE_SHARE:
        draw = replace(draw, families=(nonce_family(rng),))
    record = draw_record(draw, kind)
    return record.prompt, taught_answer(record, style)


def draw_lesson(rng: random.Random) -> Lesson:
    """A conversation of one or two turns."""
    kinds = [weighted(rng, KIND_WEIGHTS)]
    if rng.random() < TWO_TURN_SHARE:
        kinds.append(weighted(rng, KIND_WEIGHTS))
    about_facts = kinds[-1] in ("known", "unknown", "misled", "biography")
    style = weighted(rng, STYLE_WEIGHTS["facts" if about_facts else "other"])
    return Lesson(style, tuple(one_turn(rng, style, kind) for kind in kinds))
