"""What the policy engine keeps of a request, and what it decided in a step."""

from __future__ import annotations

from dataclasses import dataclass, field

from pilothouse.record import Decision, TokenScores
from pilothouse.types import Mode


@dataclass(slots=True)
class RequestRules:
    """One request in the policy engine: its row, its rules, what they decided."""

    row: int
    """In the score table."""
    modes: dict[int, Mode]
    """Rule index -> whether its action is carried out for this request."""
    policies: frozenset[str]
    """Policies that hold for it, in either mode."""
    enforced: frozenset[str]
    wants_token_scores: bool
    is_check: bool = False
    """Every rule is evaluated and none is carried out."""
    prompt_done: bool = False
    """The whole prompt was read and its rules were evaluated."""
    decisions: dict[int, Decision] = field(default_factory=dict)
    """Rule index -> what it decided; a rule that has not fired is absent."""
    verdict: Decision | None = None
    """The decision that ends the request."""
    cleared_at_end: int = 0
    """Output tokens that may still leave when a verdict has fallen."""
    ended_at: int | None = None
    """The first position that was not read, when a verdict on the output has fallen."""
    token_scores: list[TokenScores] = field(default_factory=list)
    """Of tokens that have not left yet."""


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
    """What the rules decided in one step, over all requests."""

    steers: list[SteerOrder] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    """Requests of which a rule decided something new."""
