"""Weights as they lie in a file: of any float type, mapped, widened only where they are read.

`ml_dtypes` has no part in this: what is missed is rows of bfloat16 without a copy, a shift here.

Shape suffixes: A rows, B columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
CHUNK_ROWS = 256
CHUNK = 1 << 22
BFLOAT16_EXPONENT = 0x7F80
"""All bits set: NaN or an infinity."""


def widened(raw: NDArray[Any], is_bfloat16: bool) -> Floats:
    """Return the same numbers in float64; bfloat16 is the upper half of a float32."""
    if is_bfloat16:
        return (raw.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return raw.astype(np.float64)


def narrowed(wide: NDArray[np.floating], like: Matrix) -> Matrix:
    """Numbers in the type of another matrix, rounded to the nearest, ties to even."""
    if not like.is_bfloat16:
        return Matrix(wide.astype(like.raw.dtype))
    bits = wide.astype(np.float32).view(np.uint32)
    upper = (bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16
    return Matrix(upper.astype(np.uint16), is_bfloat16=True)


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """Numbers of a file, never copied as a whole unless asked for.

    `raw` is float16, float32 or float64, or the bits of bfloat16 as uint16.
    """

    raw: NDArray[Any]
    is_bfloat16: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes in the file, or those of the transpose."""
        return self.raw.shape

    @property
    def transposed(self) -> Matrix:
        """Return another view of the same memory."""
        return Matrix(self.raw.T, self.is_bfloat16)

    def row(self, index: int) -> Floats:
        """Return one row, float64."""
        return widened(self.raw[index], self.is_bfloat16)

    def column(self, index: int) -> Floats:
        """Return one column, float64."""
        return widened(self.raw[:, index], self.is_bfloat16)

    def columns(self, part: slice) -> Floats:
        """Return some columns, float64."""
        return widened(self.raw[:, part], self.is_bfloat16)

    def rows(self, part: slice) -> Floats:
        """Return some rows, float64."""
        return widened(self.raw[part], self.is_bfloat16)

    def whole(self) -> Floats:
        """Return all of it, float64: for biases and thresholds."""
        return widened(self.raw, self.is_bfloat16)

    def bad_values(self) -> int:
        """Count the values that are NaN or infinite, in the order of the memory."""
        raw = self.raw if self.raw.flags.c_contiguous else self.raw.T
        flat = raw.reshape(-1)
        return sum(self._bad(flat[at : at + CHUNK]) for at in range(0, len(flat), CHUNK))

    def _bad(self, part: NDArray[Any]) -> int:
        if self.is_bfloat16:
            return int(((part & BFLOAT16_EXPONENT) == BFLOAT16_EXPONENT).sum())
        return int((~np.isfinite(part)).sum())

    def row_lengths(self) -> Floats:
        """Return the length of each row, float64."""
        size = len(self.raw)
        parts = [slice(start, start + CHUNK_ROWS) for start in range(0, size, CHUNK_ROWS)]
        return np.concatenate([np.linalg.norm(self.rows(part), axis=1) for part in parts])
