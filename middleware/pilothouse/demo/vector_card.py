"""What a card of a vector holds: figures with counts and intervals, and how they were made."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from pilothouse.artifacts.manifest import Closed, Interval, Sha256
from pilothouse.demo.places import Steering
from pilothouse.demo.poles import Asked

WEIGHTS: Final = "Q4_1 weights, dequantised"
AIM_CHANGED, AIM_CONTROLS, AIM_FACTS = 0.7, 0.15, 0.9


class Tried(Closed):
    """A candidate on the choosing questions, as far as it came into question."""

    steering: Steering
    dose: float
    """In distances between the two sides of the pairs."""
    n: int = Field(ge=1)
    progress: float
    """How far answers came on the way from the plain ones to the bar, on average."""
    changed: float
    degenerate: float
    facts_kept: float | None = None
    perplexity_ratio: float | None = None


class Against(Closed):
    """One kind of steering on the test questions, beside the plain answers of the same ones."""

    n: int = Field(ge=1)
    changed: Interval
    effect: Interval
    """How far the judge's number moved towards the pole, in its own unit."""
    degenerate: float


class FactsKept(Closed):
    """Of questions that the unsteered model answers right, how many still are."""

    n: int = Field(ge=1)
    kept: Interval


class Readable(Closed):
    """How surprising answers in a language are to the unsteered model, asked for that language.

    In nats a token: of the steered answers, of the model's own when the question asks for the
    language, and of what people wrote in the pairs. What is unreadable because it wanders surprises
    more; what repeats itself surprises less, and is counted apart.
    """

    n: int = Field(ge=1)
    steered: Interval
    own: Interval
    own_degenerate: float
    written: Interval
    written_n: int


class Example(Closed):
    """The first test questions, as they came: nothing is picked."""

    question: str
    plain: str
    steered: str


class PoleCard(Closed):
    """One way that the vector points, at the strength that was chosen for it."""

    name: str
    asked: Asked
    steering: Steering
    dose: float
    bar: float
    """The judge's number that nine in ten plain answers to the choosing questions do not pass."""
    plain: float
    """Mean of the judge's number over the unsteered answers."""
    plain_degenerate: float
    tried: tuple[Tried, ...]
    steered: Against
    random: Against
    shuffled: Against
    words: str
    worded: Against
    """The unsteered model, with those words behind the question."""
    facts: FactsKept
    perplexity_ratio: Interval
    perplexity_n: int
    reached: float
    """Mean of the judge's number over the steered answers."""
    readable: Readable | None = None
    examples: tuple[Example, ...]
    findings: tuple[str, ...]
    """What was aimed at and is not reached; empty where all is."""


class VectorCard(Closed):
    """Every figure of one vector."""

    name: str
    negative: str
    model_id: str
    weights: str = WEIGHTS
    method: str
    layers: tuple[int, ...]
    judge: str
    measure: str
    margin: float
    max_tokens: int
    fact_tokens: int
    pairs: int
    pairs_sha256: Sha256
    seed: int
    choosing: int
    testing: int
    near_dropped: int
    draws: int
    """Controls of each kind; each answers its share of the test questions."""
    poles: tuple[PoleCard, ...]
    versions: dict[str, str]
    notes: tuple[str, ...] = ()


def unreached(card: PoleCard) -> tuple[str, ...]:
    """Return a line for each thing that was aimed at and is not reached."""
    found = []
    if card.steered.changed.estimate < AIM_CHANGED:
        found.append(
            f"changed {_percent(card.steered.changed.estimate)}, aimed at {_percent(AIM_CHANGED)}"
        )
    for kind, control in (("random", card.random), ("shuffled", card.shuffled)):
        if control.changed.estimate > AIM_CONTROLS:
            found.append(
                f"{kind} controls change {_percent(control.changed.estimate)}, aimed at "
                f"no more than {_percent(AIM_CONTROLS)}"
            )
    if card.facts.kept.estimate < AIM_FACTS:
        found.append(
            f"facts kept {_percent(card.facts.kept.estimate)}, aimed at {_percent(AIM_FACTS)}"
        )
    if card.steered.degenerate > card.plain_degenerate + 0.1:
        found.append(
            f"{_percent(card.steered.degenerate)} of its answers repeat themselves, "
            f"{_percent(card.plain_degenerate)} of the plain ones"
        )
    return tuple(found)


def is_beyond_controls(card: PoleCard) -> bool:
    """Say whether the demo has a profile of this pole: it does more than any direction would.

    That is: the interval of the share changed lies above the shares of both kinds of controls.
    """
    controls = (card.random.changed.estimate, card.shuffled.changed.estimate)
    return card.steered.changed.low > max(controls)


def is_shown(card: PoleCard) -> bool:
    """Say whether this pole does what it is named for, most of the time.

    That is: the interval of the share changed lies above those of both kinds of controls, and at
    least half of the answers change.
    """
    controls = (card.random.changed.high, card.shuffled.changed.high)
    return card.steered.changed.estimate >= 0.5 and card.steered.changed.low > max(controls)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"
