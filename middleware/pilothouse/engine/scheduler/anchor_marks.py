"""Output positions with which an assistant's turn opens, marked before they are fed.

Shape suffixes: C rows of the watch table, W the window of marks, S positions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pilothouse.types import BoolArray, IntArray

MARKED_AHEAD = 1024
"""How far ahead of what is folded a position can be marked; more than drafts of one step."""


class AnchorMarks:
    """A window of marks for each row."""

    def __init__(self) -> None:
        self._marks_CW: NDArray[np.bool_] = np.zeros((0, MARKED_AHEAD), bool)
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def grow(self, more: int) -> None:
        """So many more rows."""
        added = np.zeros((more, MARKED_AHEAD), bool)
        self._marks_CW = np.concatenate([self._marks_CW, added])

    def add(self, row: int, position: int) -> None:
        """Mark a position."""
        self._count += not self._marks_CW[row, position % MARKED_AHEAD]
        self._marks_CW[row, position % MARKED_AHEAD] = True

    def take(self, rows_S: IntArray, at_S: IntArray) -> BoolArray:
        """Which positions are marked; their marks go."""
        marked_S: BoolArray = self._marks_CW[rows_S, at_S % MARKED_AHEAD]
        self._marks_CW[rows_S, at_S % MARKED_AHEAD] = False
        self._count -= int(np.count_nonzero(marked_S))
        return marked_S

    def clear(self, row: int) -> None:
        """All marks of a row go."""
        self._count -= int(np.count_nonzero(self._marks_CW[row]))
        self._marks_CW[row] = False
