"""A kind of table on a device: the base of every kind in `engine.ops`.

The tables of a kind at one tap are a NamedTuple of tensors with a row for each slot, whose row 0 is
zeros, and of what is known when the graph is traced. `apply` is traced with the model: which kinds
a tap has is fixed by then, so that the loop over them is unrolled and costs nothing at run time.

Shape suffixes: T tokens, D width of the tap on this rank, S slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pilothouse.edits.ops import KINDS
from pilothouse.edits.table import Role, Table
from pilothouse.engine.plan.tap_plan import EditPlan
from pilothouse.engine.worker.sae_encoder import SaeTables
from pilothouse.errors import EngineError
from pilothouse.types import FloatArray

AllReduce = Callable[[Tensor], Tensor]
FLOAT32_BYTES = 4
INT64_BYTES = 8


class StepTokens(NamedTuple):
    """What a kind gets of a step's tokens.

    `stream_TD` is the true stream before any edit, float32. `strength_T1` is the coefficient once
    more, ready to multiply. `width` counts elements of a token on all ranks together, and
    `all_reduce` sums over the ranks that share it; None where one has all of it.
    """

    stream_TD: Tensor
    slot_T: Tensor
    coefficient_T: Tensor
    strength_T1: Tensor
    latents: tuple[SaeTables, ...]
    width: int
    all_reduce: AllReduce | None


class DeviceTable(Protocol):
    """A NamedTuple: its tensors are allocated and filled by `DeviceKind`."""

    def _asdict(self) -> dict[str, Any]: ...

    def apply(self, tokens: StepTokens, given_TD: Tensor) -> Tensor:
        """Compute what the kind does, float32; an exact zero for a token in slot 0.

        Args:
            tokens: the step's.
            given_TD: of a MAP and a WRITE the stream as the maps before left it, of a FINISH the
                sum of all that was written.

        Returns:
            What a MAP or a WRITE adds to the stream; of a FINISH what becomes of the sum.
        """


class Held(NamedTuple):
    """The tables of one kind at one tap."""

    name: str
    role: Role
    tables: DeviceTable
    """A `DeviceTable`."""


Shapes = Mapping[str, tuple[int, ...]]
Upload = Callable[[Any, int, Any, Sequence[SaeTables]], None]


def copied(
    tables: Iterable[Tensor],
    slot: int,
    table: Table[Any],
    latents: Sequence[SaeTables],  # noqa: ARG001
) -> None:
    """Copy a program's numbers into its slot, field by field."""
    for tensor, numbers in zip(tables, table.numbers(), strict=True):
        copy_into(tensor[slot], numbers)


def copy_into(tensor: Tensor, numbers: FloatArray) -> None:
    """Copy an array into the beginning of a tensor that is as large or larger."""
    begin = tuple(slice(size) for size in numbers.shape)
    tensor[begin].copy_(torch.from_numpy(np.array(numbers, dtype=np.float32)))


@dataclass(frozen=True, slots=True)
class DeviceKind:
    """How the tables of a kind are laid out and filled.

    `shapes(edits, width)` names a slot's tensors with their shapes, float32 but for those in
    `whole_numbers`, which are int64; `static(edits)` gives the fields that the graph is traced for.
    """

    name: str
    tables: Callable[..., DeviceTable]
    shapes: Callable[[EditPlan, int], Shapes]
    is_held: Callable[[EditPlan], bool]
    whole_numbers: frozenset[str] = frozenset()
    static: Callable[[EditPlan], dict[str, bool]] = lambda _: {}
    upload: Upload = copied

    def allocate(self, edits: EditPlan, *, slots: int, width: int, device: torch.device) -> Held:
        """Return zeros: every slot gives the stream back."""
        tensors = {
            name: torch.zeros(
                (slots, *shape),
                dtype=torch.int64 if name in self.whole_numbers else torch.float32,
                device=device,
            )
            for name, shape in self.shapes(edits, width).items()
        }
        kind = KINDS[self.name]
        return Held(self.name, kind.role, self.tables(**tensors, **self.static(edits)))

    def slot_bytes(self, edits: EditPlan, width: int) -> int:
        """Return how many bytes one slot takes."""
        return sum(
            prod(shape) * (INT64_BYTES if name in self.whole_numbers else FLOAT32_BYTES)
            for name, shape in self.shapes(edits, width).items()
        )


DEVICE_KINDS: dict[str, DeviceKind] = {}
"""Every kind by its name."""


def register_device_table(kind: DeviceKind) -> None:
    """Add the device's side of a kind of table.

    Raises:
        EngineError: there is no such kind in `edit.ops`, or it has one.
    """
    if kind.name not in KINDS or kind.name in DEVICE_KINDS:
        raise EngineError(
            f"device table {kind.name!r}: want one for each of {sorted(KINDS)}, there are "
            f"{sorted(DEVICE_KINDS)}: register the kind first, and its device table once"
        )
    DEVICE_KINDS[kind.name] = kind


def flagged(flag: str) -> Callable[[EditPlan], bool]:
    """Return whether a plan has tables for a flag, as a function of the plan."""
    return lambda edits: flag in edits.tables


def held_kinds(edits: EditPlan) -> list[DeviceKind]:
    """Return the kinds that a tap has tables of, in the order in which they are applied."""
    missing = KINDS.keys() - DEVICE_KINDS.keys()
    if missing:
        raise EngineError(
            f"tables {sorted(missing)} are registered in `edit.ops` alone: register a device table "
            "for each"
        )
    kinds = (DEVICE_KINDS[name] for name in KINDS)
    return [kind for kind in kinds if kind.is_held(edits)]


def length(stream_TD: Tensor, all_reduce: AllReduce | None) -> Tensor:
    """Return each token's length."""
    squares_T = (stream_TD**2).sum(-1)
    if all_reduce is not None:
        squares_T = all_reduce(squares_T)
    return torch.sqrt(squares_T)
