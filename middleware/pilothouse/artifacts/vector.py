"""A steering vector: one direction per layer.

Shapes: L layers of the artefact, D width at the site.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pilothouse.artifacts.folder import (
    WEIGHTS_FILE,
    Tensors,
    check_tensors,
    describe_weights,
    frozen,
    read_artefact,
    refuse,
    width_fields,
    write_artefact,
)
from pilothouse.artifacts.manifest import FORMAT, VectorManifest
from pilothouse.types import Site


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    """A loaded vector; compared by identity, its arrays cannot be written.

    `residual_norms_L` is the model's mean ||h|| at each of the vector's taps, in the units of h.
    """

    name: str
    model_id: str
    d_model: int
    site: Site
    layers: tuple[int, ...]
    directions_LD: NDArray[np.float32]
    residual_norms_L: NDArray[np.float32]
    digest: str
    manifest: VectorManifest

    @property
    def width(self) -> int:
        """Elements of a token at the site; `d_model` at those as wide as the stream."""
        return self.manifest.site_width

    def direction_D(self, layer: int) -> NDArray[np.float32]:
        """Return the direction at a layer as stored; KeyError if the vector has none there."""
        direction_D: NDArray[np.float32] = self.directions_LD[self._row(layer)]
        return direction_D

    def residual_norm(self, layer: int) -> float:
        """Return the mean ||h|| at a layer; KeyError if the vector is not there."""
        return float(self.residual_norms_L[self._row(layer)])

    def _row(self, layer: int) -> int:
        if layer not in self.layers:
            raise KeyError(layer)
        return self.layers.index(layer)


def build_vector(
    name: str,
    *,
    model_id: str,
    layers: tuple[int, ...],
    directions_LD: NDArray[np.float32],
    residual_norms_L: NDArray[np.float32],
    created_by: str,
    site: Site = "resid_post",
    d_model: int | None = None,
) -> Vector:
    """Build a vector from its numbers, with manifest and digests.

    Raises:
        ArtefactError: shapes that do not fit, NaN, zero rows or norms that are not positive.
        pydantic.ValidationError: a field that no manifest may have.
    """
    tensors = _tensors(directions_LD, residual_norms_L)
    fields = {
        "format": FORMAT,
        "kind": "vector",
        "name": name,
        "model_id": model_id,
        "site": site,
        "layers": list(layers),
        "created_by": created_by,
    } | width_fields(site, int(np.shape(directions_LD)[-1]), d_model)
    described, _ = describe_weights(fields, tensors)
    manifest = VectorManifest.model_validate(described)
    return _vector(name, manifest, tensors, f"vector {name!r}")


def load_vector(name: str, path: Path) -> Vector:
    """Read the vector in a folder, under the name the operator gives it.

    Raises:
        ArtefactError: names file, field, what was got, what was wanted and what to do.
    """
    manifest, tensors = read_artefact(path, VectorManifest, "vector")
    return _vector(name, manifest, tensors, path / WEIGHTS_FILE)


def save_vector(vector: Vector, path: Path) -> None:
    """Write manifest and weights into a folder, made if it is not there."""
    tensors = _tensors(vector.directions_LD, vector.residual_norms_L)
    write_artefact(path, vector.manifest, tensors)


def _tensors(directions_LD: NDArray[np.float32], residual_norms_L: NDArray[np.float32]) -> Tensors:
    return {"directions": frozen(directions_LD), "residual_norms": frozen(residual_norms_L)}


def _vector(name: str, manifest: VectorManifest, tensors: Tensors, place: object) -> Vector:
    depth = len(manifest.layers)
    check_tensors(
        place, tensors, {"directions": (depth, manifest.site_width), "residual_norms": (depth,)}
    )
    norms_L = tensors["residual_norms"]
    if not (norms_L > 0).all():
        refuse(place, "residual_norms", norms_L.tolist(), "positive norms")
    return Vector(
        name=name,
        model_id=manifest.model_id,
        d_model=manifest.d_model,
        site=manifest.site,
        layers=manifest.layers,
        directions_LD=frozen(tensors["directions"]),
        residual_norms_L=frozen(norms_L),
        digest=manifest.digest,
        manifest=manifest,
    )
