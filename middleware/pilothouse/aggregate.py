"""What manifests and policies know of a way to sum up scores, without loading its code.

The code of each kind is a file of `probes.aggregators`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Annotated, NamedTuple

from pydantic import SerializeAsAny, ValidatorFunctionWrapHandler, WrapValidator

from pilothouse.types import Aggregate, AggregateKind

PARAMETERS = tuple(each.name for each in fields(Aggregate) if each.name != "kind")
"""Every parameter that some kind may have."""
MAX_TOP_TOKENS = 64
MAX_WINDOW_TOKENS = 256
"""A request's state holds one float64 for each token of the window: 2 KiB for each signal."""
MAX_LEVEL = 1e3
"""In logits: beyond it a probability is 0 or 1 to the last bit."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """The range of a parameter, both ends included.

    Attributes:
        low: The smallest value.
        high: The largest.
        example: A value that is often right, for messages and pages.
        is_whole: Whether it counts something.
        at_most: The parameter of the same kind that it may not exceed.
    """

    low: float
    high: float
    example: float
    is_whole: bool = False
    at_most: str | None = None

    @property
    def wanted(self) -> str:
        """The range in words."""
        return f"a {'whole ' * self.is_whole}number from {self.low:g} to {self.high:g}"

    def added(self, name: str) -> str:
        """What to do where it is missing."""
        return f"add it, as in `{name}: {self.example:g}`"

    def allows(self, value: object) -> bool:
        """Whether a value is a number in the range."""
        if isinstance(value, bool) or not isinstance(value, Integral if self.is_whole else Real):
            return False
        return bool(not value < self.low and value <= self.high)  # NaN is not


HALF_LIFE = Parameter(0.1, 1e6, example=4)
TOP = Parameter(1, MAX_TOP_TOKENS, example=8, is_whole=True)
WINDOW = Parameter(1, MAX_WINDOW_TOKENS, example=16, is_whole=True)
TEMPERATURE = Parameter(0.01, MAX_LEVEL, example=5)
LEVEL = Parameter(-MAX_LEVEL, MAX_LEVEL, example=0)
CUSUM = {"reference_logit": LEVEL, "drift_logits": Parameter(0, MAX_LEVEL, example=1)}


@dataclass(frozen=True, slots=True)
class AggregateTraits:
    """Properties of a kind that other rooms decide by."""

    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    """Those that it has, by their names in `Aggregate`; each of them has to be given."""
    reads_end: bool = False
    """The newest tokens decide the value. A client chooses where an answer ends, and writes the
    end of a prompt."""
    falls_with_length: bool = False
    """Harmless text before a text or behind it lowers the value, the further the more of it."""


TRAITS: dict[str, AggregateTraits] = {
    "max": AggregateTraits(),
    "mean": AggregateTraits(falls_with_length=True),
    "last": AggregateTraits(reads_end=True),
    "ema_max": AggregateTraits({"half_life_tokens": HALF_LIFE}),
    "ema_last": AggregateTraits({"half_life_tokens": HALF_LIFE}, reads_end=True),
    "top_k_mean": AggregateTraits({"k_tokens": TOP}),
    "sliding_max": AggregateTraits({"window_tokens": WINDOW}),
    "sliding_mean": AggregateTraits({"window_tokens": WINDOW}, reads_end=True),
    "softmax_mean": AggregateTraits({"temperature": TEMPERATURE}, falls_with_length=True),
    "log_sum_exp": AggregateTraits({"temperature": TEMPERATURE}),
    "noisy_or": AggregateTraits(),
    "cusum_max": AggregateTraits(CUSUM),
    "cusum_last": AggregateTraits(CUSUM, reads_end=True),
    "k_of_n": AggregateTraits(
        {
            "k_tokens": Parameter(
                1, MAX_WINDOW_TOKENS, example=3, is_whole=True, at_most="window_tokens"
            ),
            "window_tokens": WINDOW,
            "on_logit": Parameter(-MAX_LEVEL, MAX_LEVEL, example=1),
            "off_logit": Parameter(-MAX_LEVEL, MAX_LEVEL, example=0, at_most="on_logit"),
        },
        reads_end=True,
    ),
}
"""Every kind that can be named: those of this package, and those that were registered beside."""


class ParameterFault(NamedTuple):
    """What is wrong with one parameter of an aggregate, in the words of a refusal."""

    parameter: str
    got: str
    want: str
    fix: str


def parameters_of(aggregate: Aggregate) -> dict[str, float | None]:
    """Return each parameter there is, None where it is not given."""
    return {name: getattr(aggregate, name) for name in PARAMETERS}


def parameter_faults(aggregate: Aggregate) -> Iterator[ParameterFault]:
    """Yield each parameter that a known kind misses, does not have, or has out of its range."""
    kind, given = aggregate.kind, parameters_of(aggregate)
    has = TRAITS[kind].parameters
    for name, value in given.items():
        got = f"{'nothing' if value is None else value} with kind {kind!r}"
        if name not in has:
            if value is not None:
                known = f"only {' and '.join(has)}" if has else "nothing"
                yield ParameterFault(name, got, known, "remove it, or take a kind that has it")
            continue
        above = has[name].at_most
        most = given[above] if above is not None and has[above].allows(given[above]) else None
        if value is None:
            yield ParameterFault(name, got, has[name].wanted, has[name].added(name))
        elif not has[name].allows(value):
            yield ParameterFault(name, got, has[name].wanted, "give one in that range")
        elif most is not None and value > most:
            want = f"at most {above}, which is {most:g}"
            yield ParameterFault(name, got, want, f"lower it, or raise {above}")


def exact(value: float) -> str:
    """Return the shortest usual text of a number that is no other number's."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def described(aggregate: Aggregate) -> str:
    """Return the kind and its parameters in words, as in `ema_max, half life 4`."""
    words = [
        f"{name.removesuffix('_tokens').replace('_', ' ')} {exact(value)}"
        for name, value in parameters_of(aggregate).items()
        if value is not None
    ]
    return ", ".join([aggregate.kind, *words])


def allow_aggregate(kind: str, traits: AggregateTraits) -> None:
    """Let manifests and policies name a kind from now on."""
    TRAITS[kind] = traits


def _registered_or(given: object, known: ValidatorFunctionWrapHandler) -> object:
    return given if isinstance(given, str) and given in TRAITS else known(given)


NamedAggregate = Annotated[AggregateKind, WrapValidator(_registered_or), SerializeAsAny()]
"""A kind, as a manifest or a policy names it."""
