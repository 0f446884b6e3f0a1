"""The gate of a row: how much of it is written, given what it reads. Pure maths.

A row reads z = <e, h> + bias and writes g(z) d. With f = z where z > threshold, else 0:

    g(z) = clip(slope f + intercept, low, high) * sigmoid(sharpness z + shift)

or, for the two rows of a plane with radius p = |(z_1, z_2)|: g(z) = p turn - z, where z_1 is over
the first row's threshold. A gate of zeros writes nothing.

Shapes: ... any, the same for every argument.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
OPEN = 100.0
"""sigmoid(100) is 1 exactly, in float32 and in float64."""
STEEP = 1e30
"""As a slope between finite bounds: a step, at every difference that float32 can have there."""


class Gate(NamedTuple):
    """The numbers of one gate, in the order in which the engine's tables have them."""

    bias: float = 0.0
    threshold: float = -np.inf
    slope: float = 0.0
    intercept: float = 0.0
    low: float = -np.inf
    high: float = np.inf
    sharpness: float = 0.0
    shift: float = OPEN
    in_plane: float = 0.0
    turn: float = 0.0


GATE_WIDTH = len(Gate._fields)


def open_share(gate: Gate, reads: Floats) -> Floats:
    """g(z) of a row outside planes, at `reads` = z, bias included."""
    active = np.where(reads > gate.threshold, reads, 0.0)
    written = np.clip(gate.slope * active + gate.intercept, gate.low, gate.high)
    exponent = np.clip(-(gate.sharpness * reads + gate.shift), -700.0, 700.0)
    share: Floats = written / (1.0 + np.exp(exponent))
    return share


def plane_share(gate: Gate, reads: Floats, radius: Floats, first: Floats) -> Floats:
    """g(z) of a row in a plane of which the token has that much; `first` is z of its first row."""
    share: Floats = np.where(first > gate.threshold, radius * gate.turn - reads, 0.0)
    return share
