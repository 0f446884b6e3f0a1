"""KL divergence of next-token distributions of which only the top is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

FLOOR = 1e-6
"""Log-probabilities are float32: what is left of 1 may fall below its rounding."""


def coarse_kl(plain: Mapping[int, float], steered: Mapping[int, float]) -> float:
    """A lower bound on KL(plain || steered) in nats, from the likeliest tokens of each.

    Tokens that only `plain` lists get the steered probabilities that diverge least, of which none
    can be over the lowest that `steered` lists; all others count as one. Where both list the whole
    vocabulary it is the divergence itself.

    Args:
        plain, steered: log-probabilities by token id.
    """
    shared = plain.keys() & steered.keys()
    listed = sum(math.exp(plain[each]) * (plain[each] - steered[each]) for each in shared)
    rest_steered = max(FLOOR, 1.0 - sum(math.exp(steered[each]) for each in shared))
    rest_plain = 1.0 - sum(math.exp(each) for each in plain.values())
    alone = [math.exp(plain[each]) for each in plain.keys() - shared]
    ceiling = math.exp(min(steered.values()))
    return max(0.0, listed + _least(alone, max(0.0, rest_plain), rest_steered, ceiling))


def _least(alone: Sequence[float], rest: float, mass: float, ceiling: float) -> float:
    """The least sum of p log(p / q) where the q of `alone` are capped and all sum to `mass`.

    Without caps q is in proportion to p; what caps take away goes to the others in proportion.
    """
    free: list[float] = list(alone)
    capped: list[float] = []
    while True:
        open_mass = max(FLOOR, mass - ceiling * len(capped))
        total = sum(free) + rest
        factor = open_mass / total if total > FLOOR else 1.0
        over = [p for p in free if p * factor > ceiling]
        if not over:
            break
        capped += over
        free = [p for p in free if p * factor <= ceiling]
    least = sum(p * math.log(p / ceiling) for p in capped)
    return least - total * math.log(factor) if total > FLOOR else least
