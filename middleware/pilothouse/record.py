"""What comes back from the scheduler about one choice, on the output its tokens ride on.

A record is plain data so that it survives msgspec between processes. `closing` is true exactly
once per choice, on its last record; counters are totals since the choice began.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from pilothouse.types import ActionName, Mode, Phase, Result

RECORD_KEY = "pilothouse"
REVISION_KEY = "pilothouse_revision"
"""Beside a record's key: an output under it names the newest revision, and carries no record."""
PROGRAMS_KEY = "pilothouse_programs"
"""In the place of a record's key: how many steering programs live requests use from now on."""
ORPHAN_PREFIX = "pilothouse-orphan-"
"""Request ids with this prefix carry closing records of choices that have no live request."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What one rule decided on one choice. The engine makes it, and everybody else reads it.

    A choice's `verdict` is that one of its decisions which ends it.
    """

    policy: str
    rule: str
    phase: Phase
    mode: Mode
    action: ActionName
    """What the rule does when it fires and is enforced."""
    result: Result
    """What came of it for this choice."""
    at_token: int | None = None
    """Output token at which it fired (0 based); None before any output, or when it did not."""

    @property
    def decided_in(self) -> Phase:
        """The phase in which it fell: a rule on the prompt may read turns that an output opens."""
        return "output" if self.at_token is not None else self.phase


CHECK_ID: Final = "check-"
"""What the decision id of a text that is only scored begins with."""


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
class Record:
    """The state of one choice, as far as its released tokens go."""

    decision_id: str
    revision: str
    values: dict[str, float] = field(default_factory=dict)
    """Signal key -> calibrated value over the tokens scored so far; unscored signals absent."""
    prompt_done: bool = False
    """The prompt rules were evaluated: no prompt verdict can follow."""
    verdict: Decision | None = None
    """The decision that ended the choice."""
    decisions: list[Decision] = field(default_factory=list)
    """Of rules that fired so far; on the closing record, of every prompt and output rule."""
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

    def to_wire(self) -> dict[str, object]:
        """Return the record as plain builtins."""
        wire: dict[str, object] = msgspec.to_builtins(self)
        return wire

    @classmethod
    def from_wire(cls, wire: Mapping[str, object]) -> Record:
        """Return the record that `to_wire` made builtins of.

        Raises:
            msgspec.ValidationError: a field is missing or of another type.
        """
        return msgspec.convert(wire, cls)
