"""What a program does at one tap, as numbers: the form in which the engine's tables take it.

In this order, each on the result of the one before: the diagonal map, the turn towards a direction
(slerp), the rows, the additions, the norm. Rows see h as the maps left it; `sees_RR[r, q]` is what
row r sees of row q's write (0 where it reads beside it). What is relative to the token's length
takes the length that it came with; a row's statistic of the token, and the codes of a resident SAE,
are of h as the rows see it.

Shapes: R rows, D width of the tap, G numbers of a gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from pilothouse.edit.gate import Gate, open_share, plane_share
from pilothouse.edit.latent import Latent
from pilothouse.edit.sae_codes import encode, normaliser, together
from pilothouse.edit.slerp import slerped
from pilothouse.edit.statistic import Statistic, measured
from pilothouse.model.sae.autoencoder import Sae

Floats = NDArray[np.float32]
DIAGONAL_ROWS = 4
"""weight, bias, low, high: h + c (weight h + bias) where low < h < high."""
NO_SAES: Mapping[str, Sae] = MappingProxyType({})


class Norm(IntEnum):
    """What becomes of the token's length at the end; the numbers are the engine's."""

    AS_EDITED = 0
    AS_BEFORE = 1
    NOT_LONGER = 2


@dataclass(frozen=True, slots=True, eq=False)
class LayerEdit:
    """Float32 arrays that nobody writes to. What is not used is None or has no rows.

    `relative_D` is added times the token's length. `slerp_D` is a unit direction, and `slerp_share`
    times the coefficient how much of the way to it is gone.
    """

    addition_D: Floats | None
    reads_RD: Floats
    writes_RD: Floats
    gates_RG: Floats
    sees_RR: Floats
    diagonal_4D: Floats | None = None
    relative_D: Floats | None = None
    slerp_D: Floats | None = None
    slerp_share: float = 0.0
    norm: Norm = Norm.AS_EDITED
    statistics_R: tuple[Statistic, ...] = ()
    """Of each row, or empty where no row has one."""
    latents_R: tuple[Latent | None, ...] = ()
    """What rows read instead of the stream, or empty where all read that."""

    @property
    def rank(self) -> int:
        """How many gated rows."""
        return len(self.reads_RD)

    @property
    def has_planes(self) -> bool:
        """Whether some rows turn a plane."""
        return bool(self.gates_RG[:, Gate._fields.index("in_plane")].any())

    @property
    def residents(self) -> tuple[str, ...]:
        """Digests of the SAEs whose codes it reads, in order."""
        return tuple(sorted({each.sae for each in self.latents_R if each is not None}))

    @property
    def num_bytes(self) -> int:
        """Of its arrays."""
        arrays = (
            self.addition_D, self.reads_RD, self.writes_RD, self.gates_RG, self.sees_RR,
            self.diagonal_4D, self.relative_D, self.slerp_D,
        )  # fmt: skip
        return sum(each.nbytes for each in arrays if each is not None)

    def part(self, part: slice) -> LayerEdit:
        """The elements of D that one rank has; `sees_RR` is of the whole."""
        return replace(
            self,
            addition_D=None if self.addition_D is None else self.addition_D[part],
            reads_RD=self.reads_RD[:, part],
            writes_RD=self.writes_RD[:, part],
            diagonal_4D=None if self.diagonal_4D is None else self.diagonal_4D[:, part],
            relative_D=None if self.relative_D is None else self.relative_D[part],
            slerp_D=None if self.slerp_D is None else self.slerp_D[part],
        )

    def content(self) -> bytes:
        """Everything, each part with its shape: what a digest is made of."""
        parts = (
            self.addition_D, self.reads_RD, self.writes_RD, self.gates_RG, self.sees_RR,
            self.diagonal_4D, self.relative_D, self.slerp_D,
        )  # fmt: skip
        told = [bytes([self.norm]), np.float32(self.slerp_share).astype("<f4").tobytes()]
        for part in parts:
            told.append(repr(None if part is None else part.shape).encode())
            told.append(b"" if part is None else part.astype("<f4").tobytes())
        if self.statistics_R or self.latents_R:
            told.append(repr([*map(int, self.statistics_R), *self.latents_R]).encode())
        return b"".join(told)

    def apply(
        self, hidden_TD: Floats, coefficient: float, saes: Mapping[str, Sae] = NO_SAES
    ) -> NDArray[np.float64]:
        """h' in float64, token by token: what the engine's kernel computes in float32.

        Args:
            saes: those of `residents`, by their digests.
        """
        h_TD = hidden_TD.astype(np.float64)
        out_TD = h_TD.copy()
        if self.diagonal_4D is not None:
            weight_D, bias_D, low_D, high_D = self.diagonal_4D.astype(np.float64)
            inside_TD = (h_TD > low_D) & (h_TD < high_D)
            out_TD += coefficient * inside_TD * (weight_D * h_TD + bias_D)
        if self.slerp_D is not None:
            share = coefficient * self.slerp_share
            out_TD = slerped(out_TD, self.slerp_D.astype(np.float64), share)
        out_TD += self._rows_TD(out_TD, coefficient, saes)
        before_T1 = np.linalg.norm(h_TD, axis=1, keepdims=True)
        if self.addition_D is not None:
            out_TD += coefficient * self.addition_D.astype(np.float64)
        if self.relative_D is not None:
            out_TD += coefficient * before_T1 * self.relative_D.astype(np.float64)
        if self.norm != Norm.AS_EDITED:
            ratio_T1 = before_T1 / np.linalg.norm(out_TD, axis=1, keepdims=True)
            out_TD *= np.minimum(ratio_T1, 1.0) if self.norm == Norm.NOT_LONGER else ratio_T1
        return out_TD

    def _rows_TD(
        self, h_TD: NDArray[np.float64], coefficient: float, saes: Mapping[str, Sae]
    ) -> NDArray[np.float64]:
        codes = {name: encode(saes[name], h_TD) for name in self.residents}
        reads_TR = h_TD @ self.reads_RD.astype(np.float64).T
        shares_TR = np.zeros_like(reads_TR)
        factor_TR, back_TR = np.ones_like(reads_TR), np.ones_like(reads_TR)
        for r, statistic in enumerate(self.statistics_R):
            measure = measured(statistic, h_TD)
            factor_TR[:, r], back_TR[:, r] = measure.factor_T1[:, 0], measure.back_T1[:, 0]
        gates = [Gate(*row.tolist()) for row in self.gates_RG.astype(np.float64)]
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
        delta_TD = (shares_TR * back_TR) @ self.writes_RD.astype(np.float64)
        for name, codes_TM in codes.items():
            changed_TM = codes_TM.copy()
            for r, latent in enumerate(latents):
                if latent is not None and latent.sae == name:
                    changed_TM[:, latent.feature] += shares_TR[:, r]
            grown_TD = together(saes[name], changed_TM) - together(saes[name], codes_TM)
            delta_TD += grown_TD * normaliser(saes[name], h_TD).back_T1
        return delta_TD
