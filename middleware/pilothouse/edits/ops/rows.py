"""Gated rows: h + s g(<e, h> + b) d, in stages that see one another's writes.

Projections see what planes and codes wrote; nothing else sees anything. Terms with a `gate` and
features of SAEs become rows too.

Shapes: T tokens, D width of the tap, R rows, G numbers of a gate, M features of an SAE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np

from pilothouse.edits.gate import GATE_WIDTH, OPEN, Gate, open_share, plane_share
from pilothouse.edits.operator import EXTRAS, Extra
from pilothouse.edits.ops.additions import ADDITIONS
from pilothouse.edits.row import ROWS, Latent, Row, RowPart, RowStage, seen_RR, staged
from pilothouse.edits.sae_codes import encode, normaliser, together
from pilothouse.edits.statistic import Statistic, measured
from pilothouse.edits.table import (
    POLICIES_STEER_WITH,
    Affine,
    Content,
    Flag,
    Floats,
    Given,
    Narrow,
    Numbers,
    Part,
    Parts,
    Role,
    Table,
    Tokens,
    frozen,
    register_table,
)

if TYPE_CHECKING:
    from pilothouse.edits.sources import Sources
    from pilothouse.term import SteerTerm, TokenGate
    from pilothouse.types import Tap

IN_PLANE, LOW, HIGH, SLOPE = (Gate._fields.index(n) for n in ("in_plane", "low", "high", "slope"))
OPENING = [Gate._fields.index(name) for name in ("sharpness", "shift")]
"""Arguments of a sigmoid: however large, what comes of them is between 0 and 1."""
BOUNDS = [Gate._fields.index(name) for name in ("threshold", "low", "high")]
"""May be infinite, which bounds nothing."""
T = TypeVar("T")


@register_table
@dataclass(frozen=True, slots=True, eq=False)
class GatedRows(Table[RowPart]):
    """The rows of all terms. `sees_RR[r, q]` is what row r sees of row q's write, 0 for nothing."""

    reads_RD: Narrow
    writes_RD: Narrow
    gates_RG: Narrow
    sees_RR: Narrow
    statistics_R: tuple[Statistic, ...] = ()
    """Of each row, or empty where no row has one."""
    latents_R: tuple[Latent | None, ...] = ()
    """What rows read instead of the stream, or empty where all read that."""
    name = ROWS
    order = 30
    role = Role.WRITE
    flags = (
        Flag("statistics", "features of an SAE that normalises each token"),
        Flag("planes", "a turned plane", "planes"),
    )
    digest_order = 2
    does = "turns a plane"
    not_affine = "something that looks at the token (its length, other codes)"

    @classmethod
    def of_term(cls, term: SteerTerm, parts: Parts, tap: Tap, sources: Sources) -> Parts:
        """Return the parts of a gated term with its additions as rows.

        Raises:
            RequestError: a gate that cannot read here.
        """
        gate = term.gate
        if gate is None:
            return parts
        return tuple(_gated(gate, tap, each, sources) for each in parts)

    @classmethod
    def assemble(cls, given: Sequence[Given[RowPart]], tap: Tap) -> Self | None:
        """Return the rows in the order of their stages.

        Raises:
            RequestError: projections on directions that are all but parallel, or beside codes that
                they would not see.
        """
        stage_R, rows = staged(given, tap.layer)
        reads_RD = np.array([row.read_D for row in rows])
        writes_RD = np.array([row.write_D for row in rows])
        return cls(
            reads_RD=frozen(reads_RD),
            writes_RD=frozen(writes_RD),
            gates_RG=frozen(np.array([row.gate for row in rows])),
            sees_RR=frozen(seen_RR(stage_R, reads_RD, writes_RD)),
            statistics_R=_if_any([row.statistic for row in rows]),
            latents_R=_if_any([row.latent for row in rows]),
        )

    @property
    def rank(self) -> int:
        """How many rows there are."""
        return len(self.reads_RD)

    @property
    def has_planes(self) -> bool:
        """Whether some rows turn a plane."""
        return bool(self.gates_RG[:, IN_PLANE].any())

    @property
    def resident_saes(self) -> tuple[str, ...]:
        """Digests of the SAEs whose codes it reads, in order."""
        return tuple(sorted({each.sae for each in self.latents_R if each is not None}))

    def flags_used(self) -> frozenset[str]:
        """Return what its rows are."""
        found = {"planes": self.has_planes, "statistics": bool(self.statistics_R)}
        return frozenset(name for name, used in found.items() if used)

    def numbers(self) -> tuple[Narrow, ...]:
        """Return the arrays; statistics and latents are whole numbers of the engine's own."""
        return self.reads_RD, self.writes_RD, self.gates_RG, self.sees_RR

    def part(self, part: slice) -> Self:
        """Return the elements of D that one rank has; gates and `sees_RR` are of the whole."""
        return replace(self, reads_RD=self.reads_RD[:, part], writes_RD=self.writes_RD[:, part])

    @classmethod
    def content(cls, table: Self | None, width: int) -> Content:
        """Return the arrays, which without rows are empty, and what the rows read in."""
        if table is None:
            none_RD, none_RG = (
                np.zeros((0, width), np.float32),
                np.zeros((0, GATE_WIDTH), np.float32),
            )
            return Content(arrays=(none_RD, none_RD, none_RG, np.zeros((0, 0), np.float32)))
        told = b""
        if table.statistics_R or table.latents_R:
            told = repr([*map(int, table.statistics_R), *table.latents_R]).encode()
        return Content(arrays=table.numbers(), tail=told)

    def reference(self, tokens: Tokens) -> Floats:
        """Return the sum of what the rows write."""
        h_TD, coefficient = tokens.moved_TD, tokens.coefficient
        codes = {name: encode(tokens.saes[name], h_TD) for name in self.resident_saes}
        reads_TR = h_TD @ self.reads_RD.astype(np.float64).T
        shares_TR = np.zeros_like(reads_TR)
        factor_TR, back_TR = np.ones_like(reads_TR), np.ones_like(reads_TR)
        for r, statistic in enumerate(self.statistics_R):
            measure = measured(statistic, h_TD)
            factor_TR[:, r], back_TR[:, r] = measure.factor_T1[:, 0], measure.back_T1[:, 0]
        gates = self._gates()
        latents = self.latents_R or (None,) * self.rank
        for r, (gate, latent) in enumerate(zip(gates, latents, strict=True)):
            written_TR = coefficient * shares_TR[:, :r] * back_TR[:, :r]
            seen_T = written_TR @ self.sees_RR[r, :r].astype(np.float64)
            reads_TR[:, r] = factor_TR[:, r] * (reads_TR[:, r] + seen_T) + gate.bias
            if latent is not None:
                reads_TR[:, r] = codes[latent.sae][:, latent.feature]
            if not gate.in_plane:
                shares_TR[:, r] = open_share(gate, reads_TR[:, r])
            elif r % 2:
                radius_T = np.hypot(reads_TR[:, r - 1], reads_TR[:, r])
                first_T = reads_TR[:, r - 1]
                for each in (r - 1, r):
                    share_T = plane_share(gates[each], reads_TR[:, each], radius_T, first_T)
                    shares_TR[:, each] = share_T
        shares_TR *= coefficient
        delta_TD: Floats = (shares_TR * back_TR) @ self.writes_RD.astype(np.float64)
        for name, codes_TM in codes.items():
            changed_TM = codes_TM.copy()
            for r, latent in enumerate(latents):
                if latent is not None and latent.sae == name:
                    changed_TM[:, latent.feature] += shares_TR[:, r]
            sae = tokens.saes[name]
            grown_TD = together(sae, changed_TM) - together(sae, codes_TM)
            delta_TD += grown_TD * normaliser(sae, h_TD).back_T1
        return delta_TD

    def affine(self, coefficient: float) -> Affine | str:
        """Return the map of rows that write in proportion to what they read."""
        if self.statistics_R or self.latents_R:
            return self.not_affine
        gates = self._gates()
        if any(each.in_plane for each in gates):
            return "a turn in a plane, which hangs on how much of the token lies in it"
        if not all(_is_linear(each) for each in gates):
            return "a gate: how much is written hangs on the token"
        slope_R = np.array([each.slope for each in gates])
        offset_R = slope_R * [each.bias for each in gates] + [each.intercept for each in gates]
        reads_RD, writes_RD = self.reads_RD.astype(np.float64), self.writes_RD.astype(np.float64)
        # Each row sees what those before it wrote; together they are one triangular system.
        before_RR = np.tril(self.sees_RR.astype(np.float64), -1)
        solved_RR = np.linalg.inv(np.eye(len(gates)) - coefficient * slope_R[:, None] * before_RR)
        left_DR = coefficient * writes_RD.T @ solved_RR
        return Affine(left_DR, slope_R[:, None] * reads_RD, left_DR @ offset_R)

    def largest(self) -> float:
        """Return what a row makes at most of a stream of length one."""
        if not np.isfinite(np.delete(self.gates_RG, BOUNDS, axis=1)).all():
            return float("inf")
        gates_RG = np.where(np.isfinite(self.gates_RG), self.gates_RG, 0.0)
        gates_RG[:, OPENING] = 0.0
        # Between bounds it is the bounds that count.
        bounded_R = np.isfinite(self.gates_RG[:, [LOW, HIGH]]).all(axis=1)
        gates_RG[bounded_R, SLOPE] = 0.0
        sizes = [
            np.abs(each.astype(np.float64)).max(initial=1.0)
            for each in (self.reads_RD, self.writes_RD, gates_RG)
        ]
        return float(np.prod(sizes))

    def refused_in_policies(self) -> str | None:
        """Return why policies turn no planes, and edit no codes that others would not see."""
        if self.has_planes:
            return f"{self.does}; {POLICIES_STEER_WITH}"
        if not all(each is None or each.is_linear for each in self.latents_R):
            return (
                "edits features of an SAE whose decoder is not linear, of which other policies "
                "would not see all: put this into a profile"
            )
        return None

    def _gates(self) -> list[Gate]:
        return [Gate(*row.tolist()) for row in self.gates_RG.astype(np.float64)]


def _is_linear(gate: Gate) -> bool:
    bounds = (gate.threshold, gate.low, gate.high)
    return bounds == (-np.inf, -np.inf, np.inf) and gate.sharpness == 0.0 and gate.shift >= OPEN


def _if_any(each_R: list[T]) -> tuple[T, ...]:
    return tuple(each_R) if any(each_R) else ()


def _gated(gate: TokenGate, tap: Tap, part: Part, sources: Sources) -> Part:
    if not isinstance(part, Numbers) or part.kind != ADDITIONS:
        return part
    read = sources.read(gate.probe, tap)
    shift = -gate.sharpness * gate.above
    numbers = Gate(bias=read.bias, intercept=1.0, sharpness=gate.sharpness, shift=shift)
    return RowPart(RowStage.GATED, Row(np.asarray(read.row_D, np.float64), part.values, numbers))


EXTRAS["gate"] = Extra(
    field="gate",
    asked=lambda term: term.gate is not None,
    needs=frozenset({ROWS}),
    beside=lambda spec: spec.is_addition,
)
EXTRAS["feature"] = Extra(
    field="sae",
    asked=lambda term: term.sae is not None,
    needs=frozenset({ROWS}),
    beside=lambda _: False,
)
