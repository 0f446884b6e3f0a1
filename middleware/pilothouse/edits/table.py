"""What a program has in one kind of table at one tap: the base of every kind in `edit.ops`.

A kind is one class, in one file of `edit.ops`. It says how several terms are put together, what the
edit is in float64, what a digest is made of, which part one rank has, and what plans, reports and
refusals say of it. What the engine's tables of that kind look like and how they are applied to a
batch stands in the file of the same name in `engine.ops`.

Shapes: T tokens, D width of the tap, R rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from pilothouse.errors import ConfigError

if TYPE_CHECKING:
    from pilothouse.artifacts.saes.autoencoder import Sae
    from pilothouse.edits.sources import Sources
    from pilothouse.term import SteerTerm
    from pilothouse.types import Tap

Floats = NDArray[np.float64]
Narrow = NDArray[np.float32]
NO_SAES: Mapping[str, Sae] = MappingProxyType({})
POLICIES_STEER_WITH = (
    "policies steer with vectors, subspaces, low-rank maps and SAE features: put this into a "
    "profile"
)
LATER = 100
"""Place in a digest of every kind that came after the first ones, which are told by their names."""


class Role(IntEnum):
    """What is done with what a table makes of a token."""

    MAP = 0
    """It moves the stream, and the kinds after it read the stream where it was moved to."""
    WRITE = 1
    """It is added; no other kind reads the stream with it."""
    FINISH = 2
    """It replaces the sum of all that was written."""


class Flag(NamedTuple):
    """Something that a plan has tables for at a tap, or has not."""

    name: str
    missing: str
    """What is missing where there are none: `a restored norm`."""
    shown: str | None = None
    """Its word in `pilothouse doctor`; None where it is not shown."""


class Part(Protocol):
    """What one term gives to one kind of table, at a strength of 1."""

    @property
    def kind(self) -> str:
        """The name of the kind."""


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """A part that is one array of float64."""

    kind: str
    values: Floats


Parts = tuple[Part, ...]
P = TypeVar("P", bound=Part)


class Given(NamedTuple, Generic[P]):
    """A part, and the weight of its term among all terms."""

    weight: float
    part: P


class Tokens(NamedTuple):
    """What the float64 definition of a kind looks at.

    `h_TD` is the stream as it came, `moved_TD` as the maps before left it, `out_TD` with everything
    that was written so far. `saes` holds SAEs by their digests.
    """

    h_TD: Floats
    moved_TD: Floats
    out_TD: Floats
    coefficient: float
    saes: Mapping[str, Sae]


class Content(NamedTuple):
    """What a digest is made of: all heads, then all arrays, then all tails."""

    head: bytes = b""
    arrays: tuple[Narrow | None, ...] = ()
    tail: bytes = b""


class Affine(NamedTuple):
    """h' = h + left (right h) + constant, in float64; R is 0 where only a constant is added."""

    left_DR: Floats
    right_RD: Floats
    constant_D: Floats

    @property
    def is_linear(self) -> bool:
        """Whether there is no constant."""
        return not self.constant_D.any()

    @property
    def is_shift(self) -> bool:
        """Whether there is nothing but a constant."""
        return not len(self.right_RD)


@dataclass(frozen=True, slots=True, eq=False)
class Table(ABC, Generic[P]):
    """The numbers of one kind at one tap, as float32 arrays that nobody writes to.

    A subclass is a frozen dataclass. Its fields are arrays and numbers, in the order of the tensors
    that the engine has for them; the arrays' last axis is the width of the tap.
    """

    name: ClassVar[str]
    order: ClassVar[int]
    """Kinds are applied in ascending order; every one has its own."""
    role: ClassVar[Role]
    flags: ClassVar[tuple[Flag, ...]] = ()
    """What a plan must have for it; the last one is missed where the whole table is."""
    digest_order: ClassVar[int] = LATER
    only_one: ClassVar[str | None] = None
    """What there can be one of at a tap, in words; None where terms are put together."""
    reads_stream: ClassVar[bool] = True
    """Whether what it writes depends on the token."""
    edits: ClassVar[bool] = True
    """Whether it changes a token that nothing else changes."""
    does: ClassVar[str] = ""
    """What it does, after `it`; why policies do not."""
    for_policies: ClassVar[bool] = False
    """Whether policies have such tables too (`engine.policy_stage`)."""
    not_affine: ClassVar[str] = "something that no constant and no few rows are"
    """Why it is no affine map of each token."""

    @classmethod
    @abstractmethod
    def assemble(cls, given: Sequence[Given[P]], tap: Tap) -> Self | None:
        """Put the parts of all terms at one tap together; None where nothing is written.

        Raises:
            RequestError: they do not go together.
        """

    @abstractmethod
    def reference(self, tokens: Tokens) -> Floats:
        """Compute it in float64: of a MAP and a FINISH the new stream, of a WRITE what it adds."""

    @classmethod
    def of_term(cls, term: SteerTerm, parts: Parts, tap: Tap, sources: Sources) -> Parts:  # noqa: ARG003
        """Return the parts that a term gives once its fields beside the operator are heeded."""
        return parts

    @property
    def rank(self) -> int:
        """How many gated rows it has."""
        return 0

    @property
    def resident_saes(self) -> tuple[str, ...]:
        """Digests of the SAEs whose codes it reads, in order."""
        return ()

    def flags_used(self) -> frozenset[str]:
        """Return which of its flags a plan must have for these numbers."""
        return frozenset(each.name for each in self.flags)

    def numbers(self) -> tuple[Narrow, ...]:
        """Return its fields, in the order of the engine's tensors."""
        return tuple(np.asarray(getattr(self, each.name), np.float32) for each in fields(self))

    def part(self, part: slice) -> Self:
        """Return the elements of D that one rank has."""
        arrays = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(
            self,
            **{
                name: array[..., part]
                for name, array in arrays.items()
                if isinstance(array, np.ndarray) and array.ndim
            },
        )

    @classmethod
    def content(cls, table: Self | None, width: int) -> Content:  # noqa: ARG003
        """Return what a digest is made of, for a program with such a table and for one without.

        Args:
            table: the table; None where the program has none.
            width: the tap's.
        """
        if cls.digest_order != LATER:
            return Content(arrays=(None,) if table is None else table.numbers())
        if table is None:
            return Content()
        told = [f"{cls.name}\n".encode()]
        for each in table.numbers():
            told += [repr(each.shape).encode(), each.astype("<f4").tobytes()]
        return Content(tail=b"".join(told))

    def affine(self, coefficient: float) -> Affine | str:  # noqa: ARG002
        """Return the affine map of each token that it is at a strength, or in words why none."""
        return self.not_affine

    def growth(self, measure: float) -> float:  # noqa: ARG002
        """Bound how much longer tokens get at a strength of 1, beyond what operators say of theirs.

        Args:
            measure: the shortest mean length at the tap that an artefact tells.
        """
        return 0.0

    def largest(self) -> float:
        """Return the largest number that it makes of a token of length one."""
        return max(float(np.abs(each).max(initial=0.0)) for each in self.numbers())

    def refused_in_policies(self) -> str | None:
        """Return why no policy can steer with it, after `it`; None where one can."""
        if self.for_policies:
            return None
        return f"{self.does}; {POLICIES_STEER_WITH}"


KINDS: dict[str, type[Table[Any]]] = {}
"""Every kind by its name, in the order in which they are applied."""
T = TypeVar("T", bound=Table[Any])


def register_table(kind: type[T]) -> type[T]:
    """Add a kind of table; a decorator of its class.

    Raises:
        ConfigError: another kind has its name or its place.
    """
    for known in KINDS.values():
        if kind.name == known.name or kind.order == known.order:
            raise ConfigError(
                f"table {kind.name!r} of order {kind.order}: there is {known.name!r} of order "
                f"{known.order}; give it another name or order"
            )
    kinds: list[type[Table[Any]]] = [*KINDS.values(), kind]
    in_order = sorted(kinds, key=lambda each: each.order)
    KINDS.clear()
    KINDS.update({each.name: each for each in in_order})
    return kind


def known_flags() -> dict[str, Flag]:
    """Return the flags of all kinds by their names, in the order of the kinds."""
    return {flag.name: flag for kind in KINDS.values() for flag in kind.flags}


def sole(given: Sequence[Given[P]]) -> Given[P]:
    """Return the one part of a kind that has `only_one`."""
    [one] = given
    return one


def frozen(array: NDArray[np.floating]) -> Narrow:
    """Return float32 numbers that nobody can write to."""
    with np.errstate(over="ignore"):  # what is too large is refused with its size
        narrow: Narrow = np.ascontiguousarray(array, np.float32)
    narrow.setflags(write=False)
    return narrow
