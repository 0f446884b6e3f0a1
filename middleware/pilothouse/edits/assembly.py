"""Several terms at one tap, put together kind by kind."""

from __future__ import annotations

from typing import Any

from pilothouse.edits.layer import LayerEdit
from pilothouse.edits.ops import KINDS
from pilothouse.edits.table import Given, Part, Parts
from pilothouse.errors import RequestError
from pilothouse.term import SteerTerm
from pilothouse.types import Tap


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
