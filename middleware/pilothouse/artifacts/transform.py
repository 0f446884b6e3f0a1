"""A transform: an edit that is more than one direction, at each layer of the artefact.

`subspace`: an orthonormal basis, to be ablated or reflected. `plane`: two orthonormal directions,
between which the stream is turned (angular steering). `lowrank`: h + W (A h + b), as LoReFT and
DiReFT learn it. `diagonal`: h + (weight h + bias) in each dimension, where low < h < high (AcT,
AUSteer, neurons set or scaled).

Shapes: L layers of the artefact, K basis directions, R rows, D width at the site.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from pilothouse.artifacts.manifest import FORMAT, TransformForm, TransformManifest
from pilothouse.types import Site

ORTHONORMAL_ERROR = 1e-4
UNBOUNDED = 3.0e38
"""Stands for no bound in `low` and `high`: files hold finite numbers only."""

MAIN_ARRAY: Mapping[TransformForm, str] = {
    "subspace": "basis",
    "plane": "basis",
    "lowrank": "read",
    "diagonal": "weight",
}
"""The array that tells a form's rank and width."""

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """A loaded transform; compared by identity, its arrays cannot be written."""

    name: str
    model_id: str
    d_model: int
    site: Site
    layers: tuple[int, ...]
    form: TransformForm
    arrays: Arrays
    residual_norms_L: NDArray[np.float32]
    digest: str
    manifest: TransformManifest

    @property
    def width(self) -> int:
        """Elements of a token at the site; `d_model` at those as wide as the stream."""
        return self.manifest.site_width

    def at(self, layer: int) -> dict[str, NDArray[np.float32]]:
        """Return the arrays of one layer; KeyError if the transform is not there."""
        if layer not in self.layers:
            raise KeyError(layer)
        row = self.layers.index(layer)
        return {name: array[row] for name, array in self.arrays.items()}

    def residual_norm(self, layer: int) -> float:
        """Return the mean length of what the site carries at a layer; KeyError if not there."""
        if layer not in self.layers:
            raise KeyError(layer)
        return float(self.residual_norms_L[self.layers.index(layer)])


def build_transform(
    name: str,
    *,
    form: TransformForm,
    model_id: str,
    layers: tuple[int, ...],
    arrays: Arrays,
    residual_norms_L: NDArray[np.float32],
    created_by: str,
    site: Site = "resid_post",
    d_model: int | None = None,
) -> Transform:
    """Build a transform from its numbers, with manifest and digests.

    Args:
        name: the operator's name for it.
        form: what kind of edit it is.
        model_id: the model that it was made for.
        layers: those that it is at, ascending.
        arrays: `basis` [L, K, D] of a subspace or plane; `read` and `write` [L, R, D] and `bias`
            [L, R] of a low-rank one; `weight`, `bias`, `low`, `high` [L, D] of a diagonal one.
        residual_norms_L: mean length of what the site carries at each layer.
        created_by: what the manifest says of its making.
        site: where in a layer it reads and writes.
        d_model: the model's width, where the site has a width of its own.

    Raises:
        ArtefactError: arrays that do not fit the form, NaN, or a basis that is not orthonormal.
        pydantic.ValidationError: a field that no manifest may have.
    """
    main = np.asarray(arrays[MAIN_ARRAY[form]])
    rank = int(main.shape[1]) if form != "diagonal" else 1
    tensors = {key: frozen(array) for key, array in arrays.items()}
    tensors["residual_norms"] = frozen(residual_norms_L)
    fields = {
        "format": FORMAT,
        "kind": "transform",
        "form": form,
        "rank": rank,
        "name": name,
        "model_id": model_id,
        "site": site,
        "layers": list(layers),
        "created_by": created_by,
    } | width_fields(site, int(main.shape[-1]), d_model)
    described, _ = describe_weights(fields, tensors)
    manifest = TransformManifest.model_validate(described)
    return _transform(name, manifest, tensors, f"transform {name!r}")


def load_transform(name: str, path: Path) -> Transform:
    """Read the transform in a folder, under the name the operator gives it.

    Raises:
        ArtefactError: names file, field, what was got, what was wanted and what to do.
    """
    manifest, tensors = read_artefact(path, TransformManifest, "transform")
    return _transform(name, manifest, tensors, path / WEIGHTS_FILE)


def save_transform(transform: Transform, path: Path) -> None:
    """Write manifest and weights into a folder, made if it is not there."""
    tensors: Tensors = {key: frozen(array) for key, array in transform.arrays.items()}
    tensors["residual_norms"] = frozen(transform.residual_norms_L)
    write_artefact(path, transform.manifest, tensors)


def shapes_of(form: TransformForm, depth: int, rank: int, width: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor that a form has beside `residual_norms`, by its name."""
    stacked, flat = (depth, rank, width), (depth, width)
    if form in ("subspace", "plane"):
        return {"basis": stacked}
    if form == "lowrank":
        return {"read": stacked, "write": stacked, "bias": (depth, rank)}
    return dict.fromkeys(("weight", "bias", "low", "high"), flat)


def _transform(
    name: str, manifest: TransformManifest, tensors: Tensors, place: object
) -> Transform:
    depth = len(manifest.layers)
    shapes = shapes_of(manifest.form, depth, manifest.rank, manifest.site_width)
    check_tensors(
        place,
        tensors,
        shapes | {"residual_norms": (depth,)},
        may_be_zero=("bias", "weight", "low", "high"),
    )
    if not (tensors["residual_norms"] > 0).all():
        refuse(place, "residual_norms", tensors["residual_norms"].tolist(), "positive norms")
    if "basis" in shapes:
        _check_basis(place, tensors["basis"])
    return Transform(
        name=name,
        model_id=manifest.model_id,
        d_model=manifest.d_model,
        site=manifest.site,
        layers=manifest.layers,
        form=manifest.form,
        arrays={key: frozen(tensors[key]) for key in shapes},
        residual_norms_L=frozen(tensors["residual_norms"]),
        digest=manifest.digest,
        manifest=manifest,
    )


def _check_basis(place: object, basis_LKD: NDArray[np.float32]) -> None:
    wide_LKD = basis_LKD.astype(np.float64)
    gram_LKK = wide_LKD @ wide_LKD.transpose(0, 2, 1)
    error = float(np.abs(gram_LKK - np.eye(gram_LKK.shape[1])).max())
    if error > ORTHONORMAL_ERROR:
        refuse(
            place,
            "basis",
            f"directions off orthonormal by {error:.2g}",
            f"an orthonormal basis, within {ORTHONORMAL_ERROR:g}",
        )
