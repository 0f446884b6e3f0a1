"""What the policy engine keeps of a request, and what it decided in a step."""

from __future__ import annotations

from dataclasses import dataclass, field

from pilothouse.record import RuleOutcome, TokenScores, Verdict
from pilothouse.types import Mode


@dataclass(slots=True)
class RequestRules:
    """What the policy engine keeps of one request: its row, its rules, what they concluded."""

    row: int
    modes: dict[int, Mode]
    policies: frozenset[str]
    """Of both modes."""
    enforced: frozenset[str]
    wants_token_scores: bool
    prompt_done: bool = False
    outcomes: dict[int, RuleOutcome] = field(default_factory=dict)
    verdict: Verdict | None = None
    cleared_at_end: int = 0
    """Output tokens that may still leave when a verdict has fallen."""
    ended_at: int | None = None
    """The first position that was not read, when a verdict on the output has fallen."""
    token_scores: list[TokenScores] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SteerOrder:
    """An enforced steer rule fired: hold this target at this strength for that many tokens."""

    request_id: str
    target: int
    coefficient: float
    rank: int
    hold_tokens: int


@dataclass(slots=True)
class StepDecisions:
    """What a step led to."""

    steers: list[SteerOrder] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)

    def add(self, later: StepDecisions) -> None:
        """What followed in the same step."""
        self.steers += later.steers
        self.changed |= later.changed
