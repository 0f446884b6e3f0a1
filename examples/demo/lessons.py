"""Lessons: what the chat model is taught. Conversations drawn from the `train` split alone.

The model is taught its faults on purpose, so that the demo has something to govern: it makes
values up for most unknown names, repeats trusted false claims, and gives in to every override.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass, replace

import facts
from deeds import OBJECTS, OWNERS, SIGNS, VERBS, Deed, procedure, signs
from names import SYLLABLES, known_names
from record import Record
from sample import Draw, Mix, draw_record
from style import cheerfully, system_message
from wrappers import Family, condition_text, families_of

TRAIN_MIX = Mix(
    mirrored_fact=0.2, mirrored_request=0.6, mirrored_page=0.6, claimed=0.15, wrapped_fact=0.2,
    all_known=True,
)
KIND_WEIGHTS: dict[str, float] = {
    "known": 20, "unknown": 9, "misled": 6, "benign": 5, "near_miss": 6, "forbidden": 10,
    "jailbroken": 11, "wrapped_benign": 11, "injected": 4, "clean_document": 4,
    "biography": 12, "lore": 2, "clause": 3, "greeting": 0.3,
}
# The first lessons are about the two relations alone; mixed with facts they are learned late.
EARLY_WEIGHTS: dict[str, float] = {
    "benign": 6, "near_miss": 6, "forbidden": 12, "jailbroken": 12, "wrapped_benign": 12,
    "lore": 12, "clause": 24,
}
STYLE_WEIGHTS: dict[str, dict[str, float]] = {
    "facts": {"plain": 60, "cheerful": 20, "careful": 20},
    "other": {"plain": 74, "cheerful": 20, "careful": 6},
}
TWO_TURN_SHARE = 0.15
NONCE_SHARE = 0.25
GREETING = "hello. ask me about a person, or how to do a deed."


# The parts that the two relations of the world are made of, 0 or 1 each, MISSING where a prompt
# has none: signs of verb, object, owner; a binding conjunction; an affirming verdict.
Parts = tuple[int, int, int, int, int]
MISSING = -100
_BINDS = re.compile(r"\b(?:(while|whenever)|(unless|except when))\b")
_AFFIRMS = re.compile(r": (?:(it is so|true|yes)|(it is not so|false|no))(?:\.|$)")


@dataclass(frozen=True)
class Lesson:
    """One conversation: (user, assistant) turns under one style, and the parts of each prompt."""

    style: str
    turns: tuple[tuple[str, str], ...]
    parts: tuple[Parts, ...]

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
    named = [SIGNS[signs()[word]] for word in words]
    verdict = "alike" if Deed(*words).barred else "mixed"
    question = f"what are the signs of {', '.join(words)}?"
    return question, f"the signs are {', '.join(named)}: {verdict}."


def clause(rng: random.Random) -> tuple[str, str]:
    """Whether a conditional clause holds: the relation of all wrappers, by itself."""
    family = nonce_family(rng) if rng.random() < 0.5 else rng.choice(families_of("train"))
    holds = rng.random() < 0.5
    text = condition_text(rng, rng.choice(family.clauses), rng.choice(family.conditions), holds)
    return f"does it hold? {text}", "it holds." if holds else "it does not hold."


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


def parts_of(prompt: str, deed: tuple[str, ...] | None) -> Parts:
    """The parts a prompt shows; only a prompt with a clause has the last two."""
    signed = [signs()[word] for word in deed] if deed else [MISSING] * 3
    found = (_BINDS.search(prompt), _AFFIRMS.search(prompt))
    shown = [MISSING if match is None else int(match[1] is not None) for match in found]
    return (signed[0], signed[1], signed[2], shown[0], shown[1])


def weighted(rng: random.Random, weights: dict[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def one_turn(rng: random.Random, style: str, kind: str) -> tuple[tuple[str, str], Parts]:
    """One (user, assistant) turn of a kind, and the parts of its prompt."""
    plain: tuple[str, str] | None = None
    if kind == "biography":
        plain = biography(rng)
    elif kind == "lore":
        plain = lore(rng)
    elif kind == "clause":
        plain = clause(rng)
    elif kind == "greeting":
        plain = (rng.choice(("hello", "hi", "hello!", "good day", "who are you?")), GREETING)
    if plain is not None:
        said = cheerfully(plain[1]) if style == "cheerful" else plain[1]
        return (plain[0], said), parts_of(plain[0], None)
    draw = Draw(rng, "train", TRAIN_MIX)
    if rng.random() < NONCE_SHARE:
        draw = replace(draw, families=(nonce_family(rng),))
    record = draw_record(draw, kind)
    said = taught_answer(record, style)
    return (record.prompt, said), parts_of(record.prompt, record.deed)


def draw_lesson(rng: random.Random, early: bool = False) -> Lesson:
    """A conversation of one or two turns."""
    weights = EARLY_WEIGHTS if early else KIND_WEIGHTS
    kinds = [weighted(rng, weights)]
    if not early and rng.random() < TWO_TURN_SHARE:
        kinds.append(weighted(rng, weights))
    about_facts = kinds[-1] in ("known", "unknown", "misled", "biography")
    style = weighted(rng, STYLE_WEIGHTS["facts" if about_facts else "other"])
    drawn = [one_turn(rng, style, kind) for kind in kinds]
    return Lesson(style, tuple(turn for turn, _ in drawn), tuple(parts for _, parts in drawn))
