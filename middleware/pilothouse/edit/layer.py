"""What a program does at one tap, as numbers: the form in which the engine's tables take it.

In this order, each on the result of the one before: the diagonal map, the rows, the addition, the
norm. Rows see h as the diagonal map left it; `sees_RR[r, q]` is what row r sees of row q's write
(0 where it reads beside it).

Shapes: R rows, D width of the tap, G numbers of a gate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pilothouse.edit.gate import Gate, open_share, plane_share

Floats = NDArray[np.float32]
DIAGONAL_ROWS = 4
"""weight, bias, low, high: h + c (weight h + bias) where low < h < high."""


@dataclass(frozen=True, slots=True, eq=False)
class LayerEdit:
    """Float32 arrays that nobody writes to. What is not used is None or has no rows."""

    addition_D: Floats | None
    reads_RD: Floats
    writes_RD: Floats
    gates_RG: Floats
    sees_RR: Floats
    diagonal_4D: Floats | None = None
    restores_norm: bool = False

    @property
    def rank(self) -> int:
        """How many gated rows."""
        return len(self.reads_RD)

    @property
    def has_planes(self) -> bool:
        """Whether some rows turn a plane."""
        return bool(self.gates_RG[:, Gate._fields.index("in_plane")].any())

    def part(self, part: slice) -> LayerEdit:
        """The elements of D that one rank has; `sees_RR` is of the whole."""
        return replace(
            self,
            addition_D=None if self.addition_D is None else self.addition_D[part],
            reads_RD=self.reads_RD[:, part],
            writes_RD=self.writes_RD[:, part],
            diagonal_4D=None if self.diagonal_4D is None else self.diagonal_4D[:, part],
        )

    def content(self) -> bytes:
        """Everything, each part with its shape: what a digest is made of."""
        parts = (
            self.addition_D, self.reads_RD, self.writes_RD, self.gates_RG, self.sees_RR,
            self.diagonal_4D,
        )  # fmt: skip
        told = [bytes([self.restores_norm])]
        for part in parts:
            told.append(repr(None if part is None else part.shape).encode())
            told.append(b"" if part is None else part.astype("<f4").tobytes())
        return b"".join(told)

    def apply(self, hidden_TD: Floats, coefficient: float) -> NDArray[np.float64]:
        """h' in float64, token by token: what the engine's kernel computes in float32."""
        h_TD = hidden_TD.astype(np.float64)
        out_TD = h_TD.copy()
        if self.diagonal_4D is not None:
            weight_D, bias_D, low_D, high_D = self.diagonal_4D.astype(np.float64)
            inside_TD = (h_TD > low_D) & (h_TD < high_D)
            out_TD += coefficient * inside_TD * (weight_D * h_TD + bias_D)
        out_TD += self._rows_TD(out_TD, coefficient)
        if self.addition_D is not None:
            out_TD += coefficient * self.addition_D.astype(np.float64)
        if self.restores_norm:
            before_T1 = np.linalg.norm(h_TD, axis=1, keepdims=True)
            out_TD *= before_T1 / np.linalg.norm(out_TD, axis=1, keepdims=True)
        return out_TD

    def _rows_TD(self, h_TD: NDArray[np.float64], coefficient: float) -> NDArray[np.float64]:
        reads_TR = h_TD @ self.reads_RD.astype(np.float64).T
        shares_TR = np.zeros_like(reads_TR)
        gates = [Gate(*row.tolist()) for row in self.gates_RG.astype(np.float64)]
        for r, gate in enumerate(gates):
            seen_T = (coefficient * shares_TR[:, :r]) @ self.sees_RR[r, :r].astype(np.float64)
            reads_TR[:, r] += gate.bias + seen_T
            if not gate.in_plane:
                shares_TR[:, r] = open_share(gate, reads_TR[:, r])
            elif r % 2:
                radius_T = np.hypot(reads_TR[:, r - 1], reads_TR[:, r])
                for each in (r - 1, r):
                    shares_TR[:, each] = plane_share(gates[each], reads_TR[:, each], radius_T)
        return coefficient * shares_TR @ self.writes_RD.astype(np.float64)
