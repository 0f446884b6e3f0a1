"""What a plan says of the model and of what is loaded: sizes, digests, calibration; no numbers."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

from pilothouse.artifacts.catalog import Source
from pilothouse.artifacts.probe import Probe
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.config import SaeRef
from pilothouse.edits.operators import form_of
from pilothouse.head import LINEAR, Head
from pilothouse.types import Site


class Frozen(BaseModel):
    """Part of a plan: closed, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=False)


class ModelFacts(Frozen):
    """What the plan was resolved for; workers check the loaded model against it.

    `projection_widths` as the configuration has them, where it says.
    """

    model_id: str
    num_layers: int
    d_model: int
    projection_widths: dict[Site, int] = {}


class ProbeFacts(Frozen):
    """What host code needs of a probe.

    Its columns stand layer by layer, as many at each. They add up over the layers to the reads of a
    token: to its logit, where the head does not pool.
    """

    columns: tuple[int, ...]
    head: Head = LINEAR
    bias: float
    token_slope: float
    token_offset: float
    site: Site
    layers: tuple[int, ...]
    readouts: tuple[str, ...]
    default_readout: str
    digest: str
    evaluated_under_steering: bool = False

    @property
    def read_columns(self) -> tuple[tuple[int, ...], ...]:
        """Columns of each read, over all layers."""
        count = len(self.columns) // len(self.layers)
        return tuple(self.columns[r::count] for r in range(count))


class VectorFacts(Frozen):
    """What the gate needs of a vector or transform; `form` is `vector` or the transform's."""

    form: str
    site: Site
    layers: tuple[int, ...]
    residual_norms: tuple[float, ...]
    digest: str


class LoggedSae(Frozen):
    """Features of one SAE that rules log, a column each.

    The code of a column is z = column + bias where z > threshold, else 0.
    """

    sae: str
    features: tuple[int, ...]
    columns: tuple[int, ...]
    biases: tuple[float, ...]
    thresholds: tuple[float, ...]
    labels: tuple[str | None, ...]


class SaeFacts(Frozen):
    """What the gate needs of an SAE, and where each process that edits with it reads it.

    Its numbers do not travel with the plan: they are gigabytes, of which an edit needs two rows.
    """

    ref: SaeRef
    form: str
    site: Site
    layers: tuple[int, ...]
    width: int
    num_features: int
    num_labels: int
    has_max_act: bool
    average_norm: float | None
    digest: str


def probe_facts(probe: Probe, columns: tuple[int, ...]) -> ProbeFacts:
    """Describe a probe that is read at these columns."""
    return ProbeFacts(
        columns=columns,
        head=probe.head,
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
    """Describe a vector or transform."""
    return VectorFacts(
        form=form_of(vector),
        site=vector.site,
        layers=vector.layers,
        residual_norms=tuple(vector.residual_norms_L.astype(np.float64).tolist()),
        digest=vector.digest,
    )


def sae_facts(sae: Sae, ref: SaeRef) -> SaeFacts:
    """Describe an SAE, and where to read it."""
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
