"""A call's steering and probes as the `pilothouse` field of each prompt's request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pilothouse.errors import ConfigError
from pilothouse.term import SteerTerm
from pilothouse.types import ScoreDetail

Steering = Sequence[SteerTerm] | Sequence[Sequence[SteerTerm]]
"""Terms for all prompts, or for each its own."""


def request_fields(
    steer: Steering, probes: Sequence[str], scores: ScoreDetail, count: int
) -> list[dict[str, Any]]:
    """The field of each of `count` prompts.

    Raises:
        ConfigError: lists of terms for another number of prompts.
    """
    if not any(isinstance(each, Sequence) for each in steer):
        return [_field(steer, probes, scores)] * count  # type: ignore[arg-type]
    if len(steer) != count or not all(isinstance(each, Sequence) for each in steer):
        raise ConfigError(
            f"steer: got {len(steer)} entries, some of them lists, for {count} prompts; want terms "
            "for all prompts, or one list of terms for each prompt"
        )
    return [_field(each, probes, scores) for each in steer]  # type: ignore[arg-type]


def _field(
    steer: Sequence[SteerTerm], probes: Sequence[str], scores: ScoreDetail
) -> dict[str, Any]:
    terms = [each.model_dump(mode="json", exclude_none=True) for each in steer]
    return {"steer": terms, "probes": list(probes), "scores": scores}
