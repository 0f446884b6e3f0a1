"""How well a direction tells positives from negatives that it was not fitted on.

Shape suffixes: N pairs, D width of the site.
"""

from __future__ import annotations

import numpy as np

from pilothouse.training.sample import Floats

MOST = 1e6
"""What is told where the sides lie apart and neither varies."""


def separation(direction_D: Floats, positive_ND: Floats, negative_ND: Floats) -> float:
    """d': the gap between the sides' means along a direction, in their mean standard deviation.

    Below 0 where the sides lie the other way round; at most `MOST` either way.
    """
    unit_D = direction_D / np.linalg.norm(direction_D)
    positive_N, negative_N = positive_ND @ unit_D, negative_ND @ unit_D
    gap = float(positive_N.mean() - negative_N.mean())
    spread = float(np.sqrt((positive_N.var() + negative_N.var()) / 2.0))
    least = abs(gap) / MOST
    return gap / max(spread, least) if gap else 0.0
