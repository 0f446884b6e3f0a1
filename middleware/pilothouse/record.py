"""What comes back from the scheduler about one choice, on the output its tokens ride on.

A record is plain data so that it survives msgspec between processes. `closing` is true exactly
once per choice, on its last record; counters are totals since the choice began.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pilothouse.types import ActionName, Mode, Phase, Result

RECORD_KEY = "pilothouse"
REVISION_KEY = "pilothouse_revision"
"""Beside a record's key: an output under it names the newest revision, and carries no record."""
PROGRAMS_KEY = "pilothouse_programs"
"""In the place of a record's key: how many steering programs live requests use from now on."""
ORPHAN_PREFIX = "pilothouse-orphan-"
"""Request ids with this prefix carry closing records of choices that have no live request."""


@dataclass(slots=True)
class RuleOutcome:
    """One evaluated rule of one choice."""

    policy: str
    rule: str
    phase: Phase
    mode: Mode
    result: Result
    at_token: int | None = None
    """Output token at which it fired (0 based); None for prompt rules or when it did not."""


@dataclass(slots=True)
class FeatureCode:
    """What a request turned on in an SAE, and how far at its most."""

    feature: int
    code: float
    label: str | None


@dataclass(slots=True)
class TokenScores:
    """Calibrated token scores of one output token, by probe."""

    index: int
    token_id: int
    scores: dict[str, float]


@dataclass(slots=True)
class Verdict:
    """The outcome that ends a choice, or shapes how it is answered."""

    action: ActionName
    policy: str
    rule: str
    phase: Phase
    result: Result


@dataclass(slots=True)
class Record:
    """The state of one choice, as far as its released tokens go."""

    decision_id: str
    revision: str
    values: dict[str, float] = field(default_factory=dict)
    """Signal key -> calibrated value over the tokens scored so far; unscored signals absent."""
    prompt_done: bool = False
    """The prompt rules were evaluated: no prompt verdict can follow."""
    verdict: Verdict | None = None
    outcomes: list[RuleOutcome] = field(default_factory=list)
    """Rules that fired so far; on the closing record, every prompt and output rule."""
    token_scores: list[TokenScores] = field(default_factory=list)
    """Of the tokens released with this output only."""
    features: dict[str, list[FeatureCode]] = field(default_factory=dict)
    """On the closing record: `policy/rule` of each rule that logs features -> the largest codes."""
    steered_tokens: dict[str, int] = field(default_factory=dict)
    scored_tokens: dict[str, int] = field(default_factory=dict)
    unscored_tokens: dict[str, int] = field(default_factory=dict)
    hold_back_seconds: float = 0.0
    policy_seconds: float = 0.0
    waited: bool = False
    closing: bool = False
    aborted: bool = False
    error: str | None = None
    """Set when the scheduler refused the request: `seal`, `capacity`."""
    choice: tuple[int, int] | None = None
    """(prompt index, n index), filled where the output processor knows it."""
    num_prompt_tokens: int = 0
    """Filled like `choice`."""

    def to_wire(self) -> dict[str, Any]:
        """Plain builtins, in the order of the fields. By hand: this runs once an output."""
        wire = {name: getattr(self, name) for name in _FIELDS}
        if self.verdict is not None:
            wire["verdict"] = asdict(self.verdict)
        if self.outcomes:
            wire["outcomes"] = [asdict(each) for each in self.outcomes]
        if self.token_scores:
            wire["token_scores"] = [asdict(each) for each in self.token_scores]
        if self.features:
            wire["features"] = {
                rule: [asdict(each) for each in codes] for rule, codes in self.features.items()
            }
        return wire

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Record:
        """The inverse of `to_wire`."""
        plain = dict(wire)
        verdict = plain["verdict"]
        plain["verdict"] = None if verdict is None else Verdict(**verdict)
        plain["outcomes"] = [RuleOutcome(**each) for each in plain["outcomes"]]
        plain["token_scores"] = [TokenScores(**each) for each in plain["token_scores"]]
        plain["features"] = {
            rule: [FeatureCode(**each) for each in codes]
            for rule, codes in plain["features"].items()
        }
        choice = plain["choice"]
        plain["choice"] = None if choice is None else (choice[0], choice[1])
        return cls(**plain)


_FIELDS = tuple(each.name for each in fields(Record))
