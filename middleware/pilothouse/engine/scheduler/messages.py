"""What scheduler and worker tell each other about one step; only what changed.

Plain data, and where policies steer a request, of which both keep the same account.

Shape suffixes: T tokens of the step in batch order, E read columns, D hidden size.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, takewhile

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


class PolicySpans:
    """Spans of one target, ascending and apart; touching ones differ in strength or in rule.

    Scheduler and worker keep one each and are told the same spans in the same order, so that both
    know the same of every position.
    """

    def __init__(self) -> None:
        self._spans: list[PolicySpan] = []

    def __iter__(self) -> Iterator[PolicySpan]:
        return iter(self._spans)

    def impose(self, new: PolicySpan) -> None:
        """Steer along a further span; where others hold, whoever is stronger there stays.

        The cost hangs on the spans from its start on, of which there are as many as rules at most,
        and not on those that have ended.
        """
        if new.start >= new.stop:
            return
        first = bisect_right(self._spans, new.start, key=lambda span: span.stop)
        # The one before may end where this one starts, and go on.
        first = max(0, first - 1)
        self._spans[first:] = _joined(_overlaid(self._spans[first:], new))

    def within(self, start: int, stop: int) -> Iterator[PolicySpan]:
        """The spans that reach into [start, stop), ascending, not cut."""
        first = bisect_right(self._spans, start, key=lambda span: span.stop)
        return takewhile(lambda span: span.start < stop, islice(self._spans, first, None))


def _stronger(one: PolicySpan, other: PolicySpan) -> PolicySpan:
    """Whichever pulls harder in either direction; of equals the one of the first rule."""
    return min(one, other, key=lambda span: (-abs(span.coefficient), span.rank))


def _overlaid(held: Sequence[PolicySpan], new: PolicySpan) -> Iterator[PolicySpan]:
    """What holds at each position of either, in pieces that ascend."""
    reached = new.start
    for old in held:
        if old.start < new.start:
            yield replace(old, stop=min(old.stop, new.start))
        if reached < min(old.start, new.stop):
            yield replace(new, start=reached, stop=min(old.start, new.stop))
        low, high = max(old.start, new.start), min(old.stop, new.stop)
        if low < high:
            yield replace(_stronger(old, new), start=low, stop=high)
        if old.stop > new.stop:
            yield replace(old, start=max(old.start, new.stop))
        reached = max(reached, old.stop)
    if reached < new.stop:
        yield replace(new, start=reached)


def _joined(pieces: Iterator[PolicySpan]) -> list[PolicySpan]:
    """Pieces that touch and are of one rule become one span."""
    joined: list[PolicySpan] = []
    for piece in pieces:
        longer = replace(joined[-1], stop=piece.stop) if joined else None
        if longer is not None and joined[-1].stop == piece.start and longer.rank == piece.rank:
            joined[-1] = longer
        else:
            joined.append(piece)
    return joined
