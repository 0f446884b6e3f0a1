"""KL divergence of next-token distributions of which only the top is known."""

from __future__ import annotations

import math
from collections.abc import Mapping


def coarse_kl(plain: Mapping[int, float], steered: Mapping[int, float]) -> float:
    """KL(plain || steered) in nats over the tokens that both list and, as one, all others.

    Joining outcomes never raises a divergence, so this is a lower bound on the true one, and is it
    where both list the whole vocabulary.

    Args:
        plain, steered: log-probabilities by token id.
    """
    shared = plain.keys() & steered.keys()
    listed = sum(math.exp(plain[each]) * (plain[each] - steered[each]) for each in shared)
    rest_plain = 1.0 - sum(math.exp(plain[each]) for each in shared)
    rest_steered = 1.0 - sum(math.exp(steered[each]) for each in shared)
    # Log-probabilities are float32: what is left of 1 may fall below its rounding.
    floor = 1e-6
    if rest_plain <= floor:
        return max(0.0, listed)
    return max(0.0, listed + rest_plain * math.log(rest_plain / max(rest_steered, floor)))
