"""What a check asks and what it concludes, whichever contract it came by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pilothouse.record import Decision
from pilothouse.server.response.decisions import ENDING, ChoiceAction
from pilothouse.types import Result

Message = dict[str, Any]
Direction = Literal["prompt", "answer"]

FIRED: Final[frozenset[Result]] = frozenset(
    {
        "blocked",
        "responded",
        "judged",
        "steered",
        "flagged",
        "error_blocked",
        "would_block",
        "would_respond",
        "would_judge",
        "would_steer",
    }
)


@dataclass(frozen=True, slots=True)
class CheckInput:
    """One text or conversation."""

    place: str
    """In the body, for messages about it."""
    messages: tuple[Message, ...]
    """As a chat has them. Empty: there is nothing to score, and nothing is flagged."""
    direction: Direction
    """`answer`: the last message is an assistant's, and is scored as what a model said."""


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """What one call asks for."""

    inputs: tuple[CheckInput, ...]
    model: str | None = None
    """A served name, a profile or an adapter; None for the served model."""
    policies: tuple[str, ...] | None = None
    """Those of the policies that apply which are asked for; None for all."""
    wants_scores: bool = True
    """As far as the caller may see them."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What was concluded of one input."""

    input: CheckInput
    action: ChoiceAction
    """What would have been done to a request, or to an answer, of this text."""
    message: str | None
    """What the client would have read instead of an answer."""
    decisions: tuple[Decision, ...]
    """Of every rule that was evaluated and that the caller may know of."""
    scores: Mapping[str, float] | None
    """Signal -> calibrated value; None where the caller sees none."""
    num_tokens: int
    signals: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """(policy, rule) -> the signals that its condition reads."""

    def score(self, decision: Decision) -> float:
        """Return one number for a rule: the largest of its signals, or 1 or 0 where none shows."""
        keys = self.signals.get((decision.policy, decision.rule), ())
        values = [self.scores[key] for key in keys if key in self.scores] if self.scores else []
        return max(values) if values else float(decision.result in FIRED)

    @property
    def ending(self) -> tuple[Decision, ...]:
        """The decisions of rules that would have ended it."""
        return tuple(each for each in self.decisions if each.result in ENDING)

    @property
    def flagged(self) -> bool:
        """A request or an answer of this text would have been ended."""
        return self.action in ("block", "respond")


@dataclass(frozen=True, slots=True)
class CheckAnswer:
    """What one call is told."""

    check_id: str
    model: str
    revision: str
    policies: tuple[str, ...]
    """Those that the texts were scored under and that the caller may know of."""
    results: tuple[CheckResult, ...]
    shows_results: bool
    """The caller may know how each rule came to its decision."""


def user_turn(text: str) -> Message:
    """Return a text as a user says it."""
    return {"role": "user", "content": text}


def assistant_turn(text: str) -> Message:
    """Return a text as an assistant says it."""
    return {"role": "assistant", "content": text}


def text_input(place: str, text: str, direction: Direction) -> CheckInput:
    """Return a text that stands alone.

    An answer is put behind an empty question: most templates refuse a conversation that an
    assistant begins. A blank answer has no token that a model said.
    """
    if direction == "prompt":
        return CheckInput(place, (user_turn(text),), direction)
    turns = (user_turn(""), assistant_turn(text)) if text.strip() else ()
    return CheckInput(place, turns, direction)
