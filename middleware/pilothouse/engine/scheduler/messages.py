"""What scheduler and worker tell each other about one step. Plain data; only what changed.

Shape suffixes: T tokens of the step in batch order, E read columns, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pilothouse.edits.layer import LayerEdit
from pilothouse.types import FloatArray, Tap

STEP_ATTRIBUTE = "pilothouse_step"
EMISSIONS_ATTRIBUTE = "pilothouse_emissions"


@dataclass(frozen=True, slots=True)
class Steering:
    """A request's own edits: segment i has positions [starts[i], starts[i + 1])."""

    starts: tuple[int, ...]
    slots: tuple[int, ...]
    coefficients: tuple[float, ...]
    since: int = 0
    """Equal to starts[0]; for positions before it, what was said earlier still holds."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A program's numbers for a slot, at each tap that it edits.

    They are left out where vLLM dumps a step into the log, as it does when an engine fails.
    """

    slot: int
    layers: Mapping[Tap, LayerEdit] = field(repr=False)


@dataclass(frozen=True, slots=True)
class PolicySpan:
    """Positions [start, stop) of a request that a policy's rule steers along one target."""

    request_id: str
    target: int
    start: int
    stop: int
    coefficient: float
    rank: int
    """The rule's place among the steering rules by policy and id: of equals the first wins."""


@dataclass(slots=True)
class StepPlan:
    """Sent on vLLM's SchedulerOutput. Workers keep what they were told until a request ends."""

    uploads: list[Upload] = field(default_factory=list)
    steering: dict[str, Steering] = field(default_factory=dict)
    spans: list[PolicySpan] = field(default_factory=list)
    wants_emissions: bool = False
    cache_life: int = 0
    """Of the prefix cache when the step was planned; the scheduler's own."""


@dataclass(frozen=True, slots=True)
class Emissions:
    """Raw read values of a step: request i fed positions starts[i] .. starts[i] + counts[i]."""

    request_ids: tuple[str, ...]
    starts: tuple[int, ...]
    counts: tuple[int, ...]
    scores_TE: FloatArray = field(repr=False)
