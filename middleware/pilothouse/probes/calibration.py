"""Platt calibration: from an aggregated logit to the chance of a positive.

value = sigmoid(slope * logit + offset). Shapes: N sequences or tokens, B requests.
`apply` needs numpy alone; `fit_platt` needs the extra `train`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pilothouse.errors import ConfigError

MIN_SLOPE = 1e-3
"""Per standard deviation of the logits."""

Floats = NDArray[np.float64]


class Platt(NamedTuple):
    """Slope, offset, and the share of positives they assume."""

    slope: float
    offset: float
    prior: float


def apply(logits_B: ArrayLike, slope: float | Floats, offset: float | Floats) -> Floats:
    """Calibrated values in [0, 1]; NaN stays NaN. Slope and offset broadcast."""
    z_B = np.asarray(logits_B, dtype=np.float64) * slope + offset
    # tanh cannot overflow, unlike exp.
    values_B: Floats = 0.5 * (1.0 + np.tanh(0.5 * z_B))
    return values_B


def fit_platt(
    logits_N: ArrayLike, labels_N: ArrayLike, weights_N: ArrayLike | None = None
) -> Platt:
    """Slope and offset by maximum likelihood, with Platt's smoothed targets.

    The slope is held at `MIN_SLOPE` or more, so that a higher logit never means a lower value:
    a probe that knows nothing comes out flat. Source: Platt 1999; Lin, Lin and Weng 2007.

    Raises:
        ConfigError: a class is missing, or a logit is not finite.
    """
    from scipy.optimize import minimize

    logits, labels = np.asarray(logits_N, np.float64), np.asarray(labels_N).astype(bool)
    weights = np.ones(logits.size) if weights_N is None else np.asarray(weights_N, np.float64)
    if not np.isfinite(logits).all() or labels.all() or not labels.any():
        raise ConfigError(
            f"calibration: got {int(labels.sum())} positives, {int((~labels).sum())} negatives and "
            f"{int((~np.isfinite(logits)).sum())} unscored; want both classes, all scored"
        )
    positive, negative = weights[labels].sum(), weights[~labels].sum()
    targets = np.where(labels, (positive + 1) / (positive + 2), 1 / (negative + 2))
    centre, spread = logits.mean(), max(float(logits.std()), 1e-12)
    x = (logits - centre) / spread

    def loss(parameters: Floats) -> tuple[float, Floats]:
        z = parameters[0] * x + parameters[1]
        error = weights * (apply(z, 1.0, 0.0) - targets)
        value = float((weights * (np.logaddexp(0.0, z) - targets * z)).sum())
        return value, np.array([(error * x).sum(), error.sum()])

    result = minimize(
        loss,
        np.array([1.0, 0.0]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(MIN_SLOPE, None), (None, None)],
        options={"ftol": 1e-14, "gtol": 1e-9 * weights.sum()},
    )
    slope = float(result.x[0]) / spread
    prior = float(positive / (positive + negative))
    return Platt(slope=slope, offset=float(result.x[1]) - slope * float(centre), prior=prior)


def shift_prior(platt: Platt, prior: float) -> Platt:
    """The calibration for traffic in which a share `prior` is positive.

    Raises:
        ConfigError: a share outside (0, 1).
    """
    if not 0.0 < prior < 1.0:
        raise ConfigError(f"prior: got {prior}, want a share between 0 and 1, both excluded")
    shift = _log_odds(prior) - _log_odds(platt.prior)
    return Platt(slope=platt.slope, offset=platt.offset + shift, prior=prior)


def _log_odds(share: float) -> float:
    return float(np.log(share) - np.log1p(-share))
