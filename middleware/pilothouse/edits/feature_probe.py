"""A feature of an SAE as a probe: half where it turns on, nearly one at its largest code.

The logit of a token is 4 (z - threshold) / span, with span the way from the threshold to the
feature's largest code, or 1 where that is not known. No data was seen: readouts have no thresholds
for false positive rates, and `value >= 0.5` says that the feature was on.
"""

from __future__ import annotations

import numpy as np

from pilothouse.artifacts.manifest import Readout, ReadoutAggregate
from pilothouse.artifacts.probe import Probe, build_probe
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.edits.sae import plain_read
from pilothouse.errors import RequestError
from pilothouse.types import PROJECTION_SITES, Scope

SHARPNESS = 4.0
"""sigmoid(4) = 0.98 at the largest code."""

SCOPES: tuple[Scope, ...] = ("prompt", "output", "answer")


def feature_probe(name: str, sae: Sae, feature: int, created_by: str) -> Probe:
    """Return the probe of one feature.

    Raises:
        RequestError: no such feature, a form or normalisation that no single row reads, or a site
            whose width does not tell the model's.
    """
    if sae.site in PROJECTION_SITES:
        raise RequestError(
            f"SAE {sae.name!r} reads {sae.site}, of a width of its own, and does not say the "
            "model's: use one of the stream or of what is added to it"
        )
    row_D, bias, threshold, _ = plain_read(sae, feature)
    steepness = SHARPNESS / _span(sae, feature, threshold)
    return build_probe(
        name,
        model_id=sae.model_id,
        layers=(sae.tap.layer,),
        site=sae.site,
        weights_LD=(steepness * row_D)[None].astype(np.float32),
        bias=steepness * (bias - threshold),
        token_slope=1.0,
        token_offset=0.0,
        readouts={f"{scope}_max": _readout(scope) for scope in SCOPES},
        default_readout="prompt_max",
        created_by=created_by,
    )


def _readout(scope: Scope) -> Readout:
    aggregate = ReadoutAggregate(kind="max")
    return Readout(scope=scope, aggregate=aggregate, slope=1.0, offset=0.0, prior=0.5)


def _span(sae: Sae, feature: int, threshold: float) -> float:
    largest = 0.0 if sae.max_act_M is None else float(sae.max_act_M[feature])
    return largest - threshold if largest > threshold else 1.0
