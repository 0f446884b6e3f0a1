"""A turn towards a direction along the sphere: every token goes a share of the way, at its length.

With w the angle between h and the unit direction u, q = |h - <u, h> u| and f the share, the part
along u becomes |h| cos((1 - f) w) and the part across is scaled by |h| sin((1 - f) w) / q. This is
|h| slerp(h / |h|, u, f) (Shoemake 1985), written so that nothing is divided by the length.

Shapes: T tokens, D width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NARROW = 1e-3
"""q / |h| up to which float32 cannot tell well which way the part across points."""


def slerped(h_TD: Floats, unit_D: Floats, share: float) -> Floats:
    """h' in float64. A token that points the opposite way has no shortest way and stays."""
    along_T = h_TD @ unit_D
    across_T = np.linalg.norm(h_TD - along_T[:, None] * unit_D, axis=1)
    length_T = np.hypot(along_T, across_T)
    left_T = (1.0 - share) * np.arctan2(across_T, along_T)
    wide_T = across_T > NARROW * length_T
    kept_T = np.full_like(along_T, 1.0 - share)
    kept_T[wide_T] = length_T[wide_T] * np.sin(left_T[wide_T]) / across_T[wide_T]
    moved_T = length_T * np.cos(left_T) - kept_T * along_T
    turned_TD = kept_T[:, None] * h_TD + moved_T[:, None] * unit_D
    stays_T1 = (~wide_T & (along_T <= 0))[:, None]
    out_TD: Floats = np.where(stays_T1, h_TD, turned_TD)
    return out_TD
