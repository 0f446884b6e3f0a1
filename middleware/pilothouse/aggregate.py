"""What manifests and policies know of a way to sum up scores, without loading its code.

The code of each kind is a file of `probes.aggregators`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import SerializeAsAny, ValidatorFunctionWrapHandler, WrapValidator

from pilothouse.types import AggregateKind


@dataclass(frozen=True, slots=True)
class AggregateTraits:
    """Properties of a kind that other rooms decide by."""

    has_half_life: bool = False
    reads_end: bool = False
    """The newest tokens decide the value, and a client chooses where an answer ends."""
    falls_with_length: bool = False
    """Harmless text around a text lowers its value."""


TRAITS: dict[str, AggregateTraits] = {
    "max": AggregateTraits(),
    "mean": AggregateTraits(falls_with_length=True),
    "last": AggregateTraits(reads_end=True),
    "ema_max": AggregateTraits(has_half_life=True),
    "ema_last": AggregateTraits(has_half_life=True, reads_end=True),
}
"""Every kind that can be named: those of this package, and those that were registered beside."""


def allow_aggregate(kind: str, traits: AggregateTraits) -> None:
    """Let manifests and policies name a kind from now on."""
    TRAITS[kind] = traits


def kinds_with(*, half_life: bool) -> list[str]:
    """Return the kinds that have a half life, or those that have none, in their order."""
    return [kind for kind, traits in TRAITS.items() if traits.has_half_life is half_life]


def _registered_or(given: object, known: ValidatorFunctionWrapHandler) -> object:
    return given if isinstance(given, str) and given in TRAITS else known(given)


NamedAggregate = Annotated[AggregateKind, WrapValidator(_registered_or), SerializeAsAny()]
"""A kind, as a manifest or a policy names it."""
