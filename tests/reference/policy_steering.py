"""Oracle of overlapping policy steering: the definition, one position at a time."""

from __future__ import annotations

from collections.abc import Iterable

from pilothouse.engine.scheduler.messages import PolicySpan


def winner_at(position: int, spans: Iterable[PolicySpan]) -> PolicySpan | None:
    """Of the spans of one target that hold at a position the strongest, of equals the first rule's.

    However often a rule fired, and in whatever order the spans were told.
    """
    here = [span for span in spans if span.start <= position < span.stop]
    strongest = max((abs(span.coefficient) for span in here), default=0.0)
    equals = [span for span in here if abs(span.coefficient) == strongest]
    return next((span for span in equals if span.rank == min(each.rank for each in equals)), None)


def strength_at(position: int, spans: Iterable[PolicySpan]) -> float:
    """The coefficient that is applied at a position; 0 where nobody steers."""
    winner = winner_at(position, spans)
    return 0.0 if winner is None else winner.coefficient
