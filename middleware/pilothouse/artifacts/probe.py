"""A probe: weights of its head, a bias, a calibration of tokens, and readouts.

The tensors are those that `pilothouse.head` lists for the head's kind. A linear probe has one row
per layer: the logit of a token is the sum over layers of <w_l, h_l>, plus the bias.

Shapes: L layers of the artefact, D width at the site.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.folder import (
    WEIGHTS_FILE,
    Tensors,
    check_tensors,
    describe_weights,
    frozen,
    read_artefact,
    width_fields,
    write_artefact,
)
from pilothouse.artifacts.manifest import FORMAT, ProbeManifest, Readout
from pilothouse.head import LINEAR, Head
from pilothouse.types import Site


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A loaded probe; compared by identity, its weights cannot be written.

    A single token's score is `sigmoid(token_slope * logit + token_offset)`; what a policy sees is
    a readout, which has its own aggregator, calibration and thresholds.
    """

    name: str
    model_id: str
    d_model: int
    site: Site
    layers: tuple[int, ...]
    head: Head
    tensors: Mapping[str, NDArray[np.float32]]
    bias: float
    token_slope: float
    token_offset: float
    readouts: Mapping[str, Readout]
    default_readout: str
    digest: str
    manifest: ProbeManifest

    @property
    def weights_LD(self) -> NDArray[np.float32]:
        """The row at each layer, of a linear probe."""
        return self.tensors["weights"]

    @property
    def width(self) -> int:
        """Elements of a token at the site; `d_model` at those as wide as the stream."""
        return self.manifest.site_width


def build_probe(
    name: str,
    *,
    model_id: str,
    layers: tuple[int, ...],
    weights_LD: NDArray[np.float32] | None = None,
    head: Head = LINEAR,
    arrays: Mapping[str, NDArray[np.float32]] | None = None,
    bias: float,
    token_slope: float,
    token_offset: float,
    readouts: Mapping[str, Readout],
    default_readout: str,
    created_by: str,
    site: Site = "resid_post",
    d_model: int | None = None,
) -> Probe:
    """Build a probe from its numbers, with manifest and digests.

    Args:
        name: the artefact's.
        model_id: what artefacts call the model that it was fitted on.
        layers: those that it reads, in order.
        weights_LD: rows of a linear probe.
        head: which kind of head it is, with its parameters.
        arrays: the tensors of any other head by their names, in place of `weights_LD`.
        bias: added to the logit of a token.
        token_slope: of the calibration of a single token.
        token_offset: likewise.
        readouts: by name.
        default_readout: the name of the one that is meant where none is named.
        created_by: the command or program that made it.
        site: where states are read.
        d_model: the model's width, where the site has another.

    Raises:
        ArtefactError: tensors that are not the head's, shapes that do not fit, NaN or zero rows.
        pydantic.ValidationError: a field that no manifest may have.
    """
    given = arrays if weights_LD is None else {"weights": weights_LD}
    tensors = {key: frozen(each) for key, each in (given or {}).items()}
    fields = {
        "format": FORMAT,
        "kind": "probe",
        "name": name,
        "model_id": model_id,
        "site": site,
        "layers": list(layers),
        "created_by": created_by,
        "bias": float(bias),
        "token_slope": float(token_slope),
        "token_offset": float(token_offset),
        "default_readout": default_readout,
        "readouts": {key: each.model_dump(mode="json") for key, each in readouts.items()},
    } | width_fields(site, head.width_of(tensors), d_model)
    if head != LINEAR:
        fields["head"] = head.model_dump(mode="json")
    described, _ = describe_weights(fields, tensors)
    return _probe(name, ProbeManifest.model_validate(described), tensors, f"probe {name!r}")


def load_probe(name: str, path: Path) -> Probe:
    """Read the probe in a folder, under the name the operator gives it.

    Raises:
        ArtefactError: names file, field, what was got, what was wanted and what to do.
    """
    manifest, tensors = read_artefact(path, ProbeManifest, "probe")
    return _probe(name, manifest, tensors, path / WEIGHTS_FILE)


def save_probe(probe: Probe, path: Path) -> None:
    """Write manifest and weights into a folder, made if it is not there."""
    write_artefact(path, probe.manifest, dict(probe.tensors))


def _probe(name: str, manifest: ProbeManifest, tensors: Tensors, place: object) -> Probe:
    head = manifest.head or LINEAR
    shapes = head.shapes(layers=len(manifest.layers), width=manifest.site_width)
    check_tensors(place, tensors, shapes, may_be_zero=head.may_be_zero)
    return Probe(
        name=name,
        model_id=manifest.model_id,
        d_model=manifest.d_model,
        site=manifest.site,
        layers=manifest.layers,
        head=head,
        tensors=MappingProxyType({key: frozen(each) for key, each in tensors.items()}),
        bias=manifest.bias,
        token_slope=manifest.token_slope,
        token_offset=manifest.token_offset,
        readouts=MappingProxyType(dict(manifest.readouts)),
        default_readout=manifest.default_readout,
        digest=manifest.digest,
        manifest=manifest,
    )
