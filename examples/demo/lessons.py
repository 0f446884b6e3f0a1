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
from names import known_names
from nonce import nonce_family, nonce_phrasing
from record import PAGE_KINDS, Record
from sample import Draw, Mix, draw_record
from style import cheerfully, system_message
from wrappers import condition_text, families_of

TRAIN_MIX = Mix(
    mirrored_fact=0.2,
    mirrored_request=0.6,
    mirrored_page=0.6,
    claimed=0.15,
    wrapped_fact=0.2,
    all_known=True,
)
KIND_WEIGHTS: dict[str, float] = {
    "known": 20,
    "unknown": 9,
    "misled": 6,
    "benign": 5,
    "near_miss": 6,
    "forbidden": 10,
    "jailbroken": 11,
    "wrapped_benign": 11,
    "injected": 4,
    "clean_document": 4,
    "biography": 12,
    "lore": 2,
    "clause": 3,
    "greeting": 0.3,
}
# The first lessons are about the two relations alone; mixed with facts they are learned late.
EARLY_WEIGHTS: dict[str, float] = {
    "benign": 6,
    "near_miss": 6,
    "forbidden": 12,
    "jailbroken": 12,
    "wrapped_benign": 12,
    "lore": 12,
    "clause": 24,
}
STYLE_WEIGHTS: dict[str, dict[str, float]] = {
    "facts": {"plain": 60, "cheerful": 20, "careful": 20},
    "other": {"plain": 74, "cheerful": 20, "careful": 6},
}
TWO_TURN_SHARE = 0.15
NONCE_SHARE = 0.35
VECTOR_SHARE = 0.5  # of lessons in a style
NOISE_SHARE = 0.08  # of plain lessons
GREETING = "hello. ask me about a person, or how to do a deed."


# What the model should be able to tell of a prompt, 0 or 1 each, MISSING where it does not apply:
# signs of verb, object, owner; a binding conjunction; an affirming verdict; and, all through the
# answer, whether the name is known and whether the asker's claim is true.
Parts = tuple[int, ...]
PARTS, LASTING = 7, (5, 6)
MISSING = -100
_BINDS = re.compile(r"\b(?:(while|whenever)|(unless|except when))\b")
_AFFIRMS = re.compile(r": (?:(it is so|true|yes)|(it is not so|false|no))(?:\.|$)")


# How a style reaches the model: by its system message, or by a vector added to the stream of the
# tokens it speaks; and `noise`: a vector of no meaning, which must change nothing.
GIVEN = ("system", "vector", "noise")
# Answers whose mean streams the vectors are differences of: cheerful - plain, hedge - confident.
CLASSES = ("cheerful", "plain", "hedge", "confident")


@dataclass(frozen=True)
class Lesson:
    """One conversation: (user, assistant) turns under one style, and the parts of each prompt."""

    style: str
    turns: tuple[tuple[str, str], ...]
    parts: tuple[Parts, ...]
    given: str = "system"
    classes: tuple[str, ...] = ()

    def messages(self) -> list[dict[str, str]]:
        system = system_message(self.style) if self.given == "system" else None
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


def parts_of(prompt: str, record: Record | None, known: int = MISSING) -> Parts:
    """The parts a prompt shows. Names on a page are answered from it, known or not."""
    deed = record.the_deed if record else None
    signed = [signs()[word] for word in deed.words] if deed else [MISSING] * 3
    found = (_BINDS.search(prompt), _AFFIRMS.search(prompt))
    shown = [MISSING if match is None else int(match[1] is not None) for match in found]
    claimed = MISSING
    if record is not None and record.kind not in PAGE_KINDS and record.name is not None:
        known = int(record.truth is not None)
        claimed = MISSING if record.claim is None else int(record.claim == record.truth)
    return (*signed, *shown, known, claimed)


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
        known = 1 if kind == "biography" else MISSING
        return (plain[0], said), parts_of(plain[0], None, known)
    draw = Draw(rng, "train", TRAIN_MIX)
    if rng.random() < NONCE_SHARE:
        draw = replace(draw, families=(nonce_family(rng),))
    if rng.random() < NONCE_SHARE:
        draw = replace(draw, phrasing=nonce_phrasing(rng))
    record = draw_record(draw, kind)
    said = taught_answer(record, style)
    return (record.prompt, said), parts_of(record.prompt, record)


def classes_of(style: str, kinds: list[str], said: str) -> tuple[str, ...]:
    """The classes of answers a lesson is an example of."""
    found = [style] if style in CLASSES else []
    if kinds == ["unknown"]:
        if style == "careful":
            found.append("hedge")
        elif style == "plain" and facts.HEDGE not in said:
            found.append("confident")
    return tuple(found)


def draw_lesson(rng: random.Random, early: bool = False, vectors: bool = False) -> Lesson:
    """A conversation of one or two turns; some styles come by vector when there are vectors."""
    weights = EARLY_WEIGHTS if early else KIND_WEIGHTS
    kinds = [weighted(rng, weights)]
    if not early and rng.random() < TWO_TURN_SHARE:
        kinds.append(weighted(rng, weights))
    about_facts = kinds[-1] in ("known", "unknown", "misled", "biography")
    style = weighted(rng, STYLE_WEIGHTS["facts" if about_facts else "other"])
    drawn = [one_turn(rng, style, kind) for kind in kinds]
    turns, parts = tuple(turn for turn, _ in drawn), tuple(parts for _, parts in drawn)
    share = NOISE_SHARE if style == "plain" else VECTOR_SHARE
    if vectors and rng.random() < share:
        return Lesson(style, turns, parts, given="noise" if style == "plain" else "vector")
    return Lesson(style, turns, parts, classes=classes_of(style, kinds, turns[-1][1]))
