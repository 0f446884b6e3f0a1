"""What a program does at one tap, as numbers: the form in which the engine's tables take it.

Kinds of tables are applied in their order, `edit.table.Table.order`. Maps come first, each on what
the one before left; then what is written on top of them is added up; last comes what changes the
sum. What is relative to the token's length takes the length that it came with; a row's statistic of
the token, and the codes of a resident SAE, are of the stream as the maps left it.

Shapes: T tokens, D width of the tap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.edits.ops import KINDS
from pilothouse.edits.table import (
    NO_SAES,
    Affine,
    Floats,
    Given,
    Narrow,
    Part,
    Parts,
    Role,
    Table,
    Tokens,
)
from pilothouse.errors import RequestError
from pilothouse.term import SteerTerm
from pilothouse.types import Tap

T = TypeVar("T", bound=Table[Any])


@dataclass(frozen=True, slots=True, eq=False)
class LayerEdit:
    """The tables that a program has something in, in the order in which they are applied."""

    width: int
    tables: tuple[Table[Any], ...]

    def get(self, kind: type[T]) -> T | None:
        """Return its table of a kind; None where it has none."""
        return next((each for each in self.tables if isinstance(each, kind)), None)

    @property
    def rank(self) -> int:
        """How many gated rows it has."""
        return sum(each.rank for each in self.tables)

    @property
    def resident_saes(self) -> tuple[str, ...]:
        """Digests of the SAEs whose codes it reads, in order."""
        return tuple(sorted({name for each in self.tables for name in each.resident_saes}))

    @property
    def flags(self) -> frozenset[str]:
        """What a plan must have for it beside rows and additions."""
        return frozenset(name for each in self.tables for name in each.flags_used())

    @property
    def num_bytes(self) -> int:
        """How many bytes its arrays take."""
        return sum(array.nbytes for each in self.tables for array in each.numbers())

    def part(self, part: slice) -> LayerEdit:
        """Return the elements of D that one rank has."""
        if part == slice(0, self.width):
            return self
        return replace(self, tables=tuple(each.part(part) for each in self.tables))

    def content(self) -> bytes:
        """Return everything, each array with its shape: what a digest is made of."""
        kinds = sorted(KINDS.values(), key=lambda each: (each.digest_order, each.name))
        held = {each.name: each for each in self.tables}
        contents = [kind.content(held.get(kind.name), self.width) for kind in kinds]
        told = [each.head for each in contents]
        for array in (array for each in contents for array in each.arrays):
            told.append(repr(None if array is None else array.shape).encode())
            told.append(b"" if array is None else array.astype("<f4").tobytes())
        return b"".join(told + [each.tail for each in contents])

    def apply(
        self, hidden_TD: Narrow, coefficient: float, saes: Mapping[str, Sae] = NO_SAES
    ) -> Floats:
        """Return h' in float64, token by token, as the engine's kernel computes it in float32.

        Args:
            hidden_TD: the stream.
            coefficient: what multiplies everything.
            saes: those of `resident_saes`, by their digests.
        """
        h_TD = hidden_TD.astype(np.float64)
        moved_TD = h_TD
        for each in self.tables:
            if each.role == Role.MAP:
                moved_TD = each.reference(Tokens(h_TD, moved_TD, moved_TD, coefficient, saes))
        out_TD = moved_TD.copy()
        for each in self.tables:
            if each.role == Role.WRITE:
                out_TD += each.reference(Tokens(h_TD, moved_TD, out_TD, coefficient, saes))
        for each in self.tables:
            if each.role == Role.FINISH:
                out_TD = each.reference(Tokens(h_TD, moved_TD, out_TD, coefficient, saes))
        return out_TD


__all__ = ["Affine", "affine_of"]


def affine_of(edit: LayerEdit, coefficient: float) -> Affine | str:
    """Return the map of an edit at a strength, or why it is not one, in words."""
    maps: list[Affine] = []
    for each in edit.tables:
        found = each.affine(coefficient)
        if isinstance(found, str):
            return found
        maps.append(found)
    return Affine(
        np.concatenate([each.left_DR for each in maps], axis=1),
        np.concatenate([each.right_RD for each in maps]),
        np.sum([each.constant_D for each in maps], axis=0),
    )


class Assembly:
    """The parts of several terms at one tap, put together."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._given: dict[str, list[Given[Any]]] = {}

    def take(self, term: SteerTerm, weight: float, parts: Parts) -> None:
        """Add a term's parts at its weight.

        Raises:
            RequestError: a second one of what there can be one of.
        """
        for part in parts:
            self._refuse_second(term, part)
            self._given.setdefault(part.kind, []).append(Given(weight, part))

    def edit(self, width: int) -> LayerEdit | None:
        """Return the numbers; None where nothing is written.

        Raises:
            RequestError: parts of one kind that do not go together.
        """
        made = [
            kind.assemble(self._given[name], self._tap)
            for name, kind in KINDS.items()
            if name in self._given
        ]
        tables = tuple(each for each in made if each is not None)
        return LayerEdit(width, tables) if any(each.edits for each in tables) else None

    def _refuse_second(self, term: SteerTerm, part: Part) -> None:
        what = KINDS[part.kind].only_one
        if what is not None and part.kind in self._given:
            raise RequestError(
                f"steer: {term.name!r}: a second {what} at layer {self._tap.layer}, want one: "
                "leave one out, or steer them at other layers",
                param="steer",
            )
