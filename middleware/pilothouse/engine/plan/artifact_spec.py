"""What a plan says of each artefact that is loaded."""

from __future__ import annotations

import numpy as np

from pilothouse.artifacts.catalog import Source
from pilothouse.artifacts.probe import Probe
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.config import SaeRef
from pilothouse.edits.operators import form_of
from pilothouse.engine.plan.spec import ProbeFacts, SaeFacts, VectorFacts


def probe_facts(probe: Probe, columns: tuple[int, ...]) -> ProbeFacts:
    """Of a probe that is read at these columns."""
    return ProbeFacts(
        columns=columns,
        bias=probe.bias,
        token_slope=probe.token_slope,
        token_offset=probe.token_offset,
        site=probe.site,
        layers=probe.layers,
        readouts=tuple(probe.readouts),
        default_readout=probe.default_readout,
        digest=probe.digest,
    )


def vector_facts(vector: Source) -> VectorFacts:
    """Of a vector or transform."""
    return VectorFacts(
        form=form_of(vector),
        site=vector.site,
        layers=vector.layers,
        residual_norms=tuple(vector.residual_norms_L.astype(np.float64).tolist()),
        digest=vector.digest,
    )


def sae_facts(sae: Sae, ref: SaeRef) -> SaeFacts:
    """Of an SAE, and where to read it."""
    return SaeFacts(
        ref=ref,
        form=sae.form,
        site=sae.site,
        layers=sae.layers,
        width=sae.width,
        num_features=sae.num_features,
        num_labels=len(sae.labels),
        has_max_act=sae.max_act_M is not None,
        average_norm=sae.average_norm,
        digest=sae.digest,
    )
