"""Several terms at one tap, put together in the order of the stages.

Shapes: R rows, D width of the tap, G numbers of a gate.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pilothouse.edit.gate import GATE_WIDTH, Gate
from pilothouse.edit.latent import Latent
from pilothouse.edit.layer import LayerEdit, Norm
from pilothouse.edit.operators import Floats, Parts, Row
from pilothouse.edit.sources import Sources
from pilothouse.errors import RequestError
from pilothouse.term import SteerTerm, TokenGate
from pilothouse.types import Tap

WORST_CONDITION = 1e6
T = TypeVar("T")


class Stage(IntEnum):
    """Where a row stands in the order. Planes come first: their rows lie in pairs."""

    PLANE = 0
    CODE = 1
    PROJECTION = 2
    GATED = 3


class Assembly:
    """The parts of several terms at one tap, put together."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._additions: list[Floats] = []
        self._relatives: list[Floats] = []
        self._stages: dict[Stage, list[Row]] = {stage: [] for stage in Stage}
        self._diagonal_4D: Floats | None = None
        self._slerp: tuple[Floats, float] | None = None
        self._norms: set[Norm] = set()

    def take(self, term: SteerTerm, weight: float, parts: Parts, sources: Sources) -> None:
        """Add a term's parts at its weight.

        Raises:
            RequestError: a second one of what there can be one of, or a gate that cannot read here.
        """
        self._norms.add(_norm_of(term))
        if parts.relative_D is not None:
            self._relatives.append(weight * parts.relative_D)
        if parts.addition_D is not None:
            addition_D = weight * parts.addition_D
            if term.gate is None:
                self._additions.append(addition_D)
            else:
                self._stages[Stage.GATED].append(_gated(term.gate, self._tap, addition_D, sources))
        for stage, rows in (
            (Stage.PLANE, parts.planes),
            (Stage.CODE, parts.codes),
            (Stage.PROJECTION, parts.projections),
            (Stage.GATED, parts.gated),
        ):
            self._stages[stage] += [_weighed(row, weight) for row in rows]
        if parts.diagonal_4D is not None:
            self._only(self._diagonal_4D, term, "map of single dimensions")
            self._diagonal_4D = parts.diagonal_4D * np.array([[weight], [weight], [1.0], [1.0]])
        if parts.slerp_D is not None:
            self._only(self._slerp, term, "slerp")
            self._slerp = parts.slerp_D, weight

    def edit(self, width: int) -> LayerEdit | None:
        """The numbers; None where nothing is written.

        Raises:
            RequestError: projections on directions that are all but parallel.
        """
        addition_D, relative_D = _sum_D(self._additions), _sum_D(self._relatives)
        stages = {
            # By content, so that the order of terms cannot matter. Planes keep their pairs.
            stage: rows if stage == Stage.PLANE else sorted(rows, key=_content)
            for stage, rows in self._stages.items()
        }
        stages[Stage.PROJECTION] = _dual_rows(stages[Stage.PROJECTION], self._tap.layer)
        self._refuse_unseen(stages)
        stage_R = [stage for stage, rows in stages.items() for _ in rows]
        rows = [row for rows in stages.values() for row in rows]
        others = (addition_D, relative_D, self._diagonal_4D, self._slerp)
        if not rows and all(each is None for each in others):
            return None
        reads_RD = np.array([row.read_D for row in rows]).reshape(len(rows), width)
        writes_RD = np.array([row.write_D for row in rows]).reshape(len(rows), width)
        gates_RG = np.array([row.gate for row in rows]).reshape(len(rows), GATE_WIDTH)
        return LayerEdit(
            addition_D=addition_D,
            reads_RD=_frozen(reads_RD),
            writes_RD=_frozen(writes_RD),
            gates_RG=_frozen(gates_RG),
            sees_RR=_frozen(_sees(stage_R, reads_RD, writes_RD)),
            diagonal_4D=None if self._diagonal_4D is None else _frozen(self._diagonal_4D),
            relative_D=relative_D,
            slerp_D=None if self._slerp is None else _frozen(self._slerp[0]),
            slerp_share=0.0 if self._slerp is None else self._slerp[1],
            # What is as long as before is not longer either.
            norm=Norm.AS_BEFORE if Norm.AS_BEFORE in self._norms else max(self._norms),
            statistics_R=_if_any([row.statistic for row in rows]),
            latents_R=_if_any([row.latent for row in rows]),
        )

    def _refuse_unseen(self, stages: dict[Stage, list[Row]]) -> None:
        codes = [row.latent for row in stages[Stage.CODE] if row.latent is not None]
        if stages[Stage.PROJECTION] and not all(each.is_linear for each in codes):
            raise RequestError(
                f"steer: at layer {self._tap.layer} a projection stands beside features of an SAE "
                "whose decoder is not linear, of which it would not see all: steer them at "
                "different layers",
                param="steer",
            )

    def _only(self, known: object, term: SteerTerm, what: str) -> None:
        if known is not None:
            raise RequestError(
                f"steer: {term.name!r}: a second {what} at layer {self._tap.layer}, want one: "
                "leave one out, or steer them at other layers",
                param="steer",
            )


def _norm_of(term: SteerTerm) -> Norm:
    if term.restore_norm == "if_longer":
        return Norm.NOT_LONGER
    return Norm.AS_BEFORE if term.restore_norm else Norm.AS_EDITED


def _content(row: Row) -> tuple[bytes, bytes, Gate, int, Latent]:
    latent = row.latent or Latent("", 0)
    return row.read_D.tobytes(), row.write_D.tobytes(), row.gate, int(row.statistic), latent


def _weighed(row: Row, weight: float) -> Row:
    """A row that writes that much of it; of a code, which others can hang on, it is the change."""
    if row.latent is None:
        return row._replace(write_D=weight * row.write_D)
    gate = row.gate
    low, high = sorted((weight * gate.low, weight * gate.high))
    return row._replace(
        gate=gate._replace(
            slope=weight * gate.slope, intercept=weight * gate.intercept, low=low, high=high
        )
    )


def _if_any(each_R: list[T]) -> tuple[T, ...]:
    return tuple(each_R) if any(each_R) else ()


def _gated(gate: TokenGate, tap: Tap, write_D: Floats, sources: Sources) -> Row:
    read = sources.read(gate.probe, tap)
    shift = -gate.sharpness * gate.above
    numbers = Gate(bias=read.bias, intercept=1.0, sharpness=gate.sharpness, shift=shift)
    return Row(np.asarray(read.row_D, np.float64), write_D, numbers)


def _dual_rows(rows: list[Row], layer: int) -> list[Row]:
    """Writes that move one coordinate and leave the others: the dual basis of the directions."""
    if len(rows) < 2:
        return rows
    units_RD = np.array([row.read_D for row in rows])
    gram_RR = units_RD @ units_RD.T
    if np.linalg.cond(gram_RR) > WORST_CONDITION:
        raise RequestError(
            f"steer: projections at layer {layer} are on directions that are parallel or nearly "
            "so: leave one out, or steer at different layers",
            param="steer",
        )
    dual_RD = np.linalg.solve(gram_RR, units_RD)
    return [
        row._replace(write_D=float(row.read_D @ row.write_D) * dual_D)
        for row, dual_D in zip(rows, dual_RD, strict=True)
    ]


def _sees(stages: list[Stage], reads_RD: Floats, writes_RD: Floats) -> Floats:
    """A projection sees what planes and codes wrote; nothing else sees anything."""
    stage_R = np.array(stages, np.int64)
    later_RR = (stage_R[:, None] == Stage.PROJECTION) & (stage_R[None, :] < Stage.PROJECTION)
    sees_RR: Floats = np.where(later_RR, reads_RD @ writes_RD.T, 0.0)
    return sees_RR


def _sum_D(parts: list[Floats]) -> NDArray[np.float32] | None:
    if not parts:
        return None
    # Sorted by value in each dimension, so that the order of terms cannot change a bit.
    sum_D = np.sort(np.stack(parts), axis=0).sum(axis=0).astype(np.float32) + np.float32(0)
    return _frozen(sum_D) if sum_D.any() else None


def _frozen(array: NDArray[np.floating]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what is too large is refused with its size
        narrow: NDArray[np.float32] = np.ascontiguousarray(array, np.float32)
    narrow.setflags(write=False)
    return narrow
