"""PolySAE's decoder (Koromilas et al. 2026), as its fork of SAELens saves it.

U1, U2, U3 [features, rank] and C1, C2, C3 [width, rank] with lambda2, lambda3; or one U_shared in
place of the three. `W_dec`, which the decoder never uses, is the linear part, scaled to length 1.

Shape suffixes: D width of the site, M features.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pilothouse.artifacts.folder import refuse
from pilothouse.artifacts.saes.autoencoder import Polynomial
from pilothouse.artifacts.saes.fields import Fields
from pilothouse.artifacts.saes.mapped_file import FETCH, Stored
from pilothouse.artifacts.saes.matrix import Floats, Matrix

FACTORS = ("U1", "U2", "U3", "C1", "C2", "C3", "lambda2", "lambda3")


OWN: Mapping[str, str] = {f"joint_{name}": name for name in Polynomial._fields}
"""Names of the factors in our own layout, with the lambdas in them."""


def factors_of(polynomial: Polynomial | None) -> dict[str, Floats]:
    """Return its factors by their names in our own layout; those without columns are left out."""
    if polynomial is None:
        return {}
    by_name = {ours: getattr(polynomial, name) for ours, name in OWN.items()}
    return {ours: each for ours, each in by_name.items() if each.shape[1]}


def take_factors(place: Path, tensors: Stored) -> Polynomial | None:
    """Take what `factors_of` wrote out of a file's tensors; None where there is none.

    Raises:
        ArtefactError: shapes that do not fit, NaN or infinities.
    """
    found = {OWN[ours]: tensors.pop(ours) for ours in OWN if ours in tensors}
    if not found or "W_dec" not in tensors:
        return None
    features, width = tensors["W_dec"].shape
    columns = {"Q": 0, "C": 0}
    for name, tensor in found.items():
        first, kind = (features if name[-2] == "M" else width), name[-1]
        columns[kind] = columns[kind] or tensor.shape[-1]
        if tensor.shape != (first, columns[kind]) or tensor.bad_values():
            refuse(
                place,
                name,
                f"shape {list(tensor.shape)}",
                f"finite numbers, shape [{first}, {columns[kind]}]",
                FETCH,
            )
    wanted = {name for name in Polynomial._fields if columns[name[-1]]}
    if set(found) != wanted or columns["C"] > columns["Q"]:
        refuse(
            place,
            "factors",
            sorted(found),
            "those of a square, of more columns than those of a cube if there is one",
            FETCH,
        )
    nothing = {"M": np.zeros((features, 0)), "D": np.zeros((width, 0))}
    return Polynomial(
        **{
            name: found[name].whole() if name in found else nothing[name[-2]]
            for name in Polynomial._fields
        }
    )


def take_polynomial(place: Path, fields: Fields, tensors: Stored) -> Polynomial | None:
    """Take a PolySAE's tensors out of a file's and put its linear part in as `W_dec`.

    None where its order is 1.

    Raises:
        ArtefactError: tensors missing, shapes that do not fit, NaN or infinities.
    """
    order = fields.whole("poly_order", 3)
    found = {name: tensors.pop(name) for name in (*FACTORS, "U_shared") if name in tensors}
    _check(place, fields, found)
    wide = {name: each.whole() for name, each in found.items()}
    if "U_shared" in wide:
        wide |= dict.fromkeys(("U1", "U2", "U3"), wide["U_shared"])
    ranks = [wide[name].shape[1] for name in ("C1", "C2", "C3")]
    square, cube = (ranks[1] if order > 1 else 0), (ranks[2] if order > 2 else 0)
    if not cube <= square <= ranks[0]:
        refuse(place, "ranks", ranks, "ranks that do not rise from C1 to C3", FETCH)
    linear_MD = wide["U1"][:, : ranks[0]] @ wide["C1"].T
    tensors["W_dec"] = Matrix(linear_MD)
    if not square:
        return None
    return Polynomial(
        first_MQ=wide["U1"][:, :square],
        second_MQ=wide["U2"][:, :square],
        square_DQ=float(wide["lambda2"].reshape(-1)[0]) * wide["C2"][:, :square],
        third_MC=wide["U3"][:, :cube],
        cube_DC=float(wide["lambda3"].reshape(-1)[0]) * wide["C3"][:, :cube],
    )


def _check(place: Path, fields: Fields, found: Stored) -> None:
    is_shared = fields.flag("shared_u", False)
    wanted = {*FACTORS, *(("U_shared",) if is_shared else ())}
    if set(found) != wanted:
        refuse(place, "tensors", sorted(found), f"{sorted(wanted)} of a PolySAE", FETCH)
    width, features = fields.whole("d_in"), fields.whole("d_sae")
    for name, tensor in found.items():
        first = {"U": features, "C": width}.get(name[0])
        is_matrix = len(tensor.shape) == 2 and tensor.shape[0] == first
        if not (tensor.raw.size == 1 if first is None else is_matrix):
            refuse(
                place,
                name,
                f"shape {list(tensor.shape)}",
                "one number" if first is None else f"shape [{first}, rank]",
                FETCH,
            )
        if tensor.bad_values():
            refuse(place, name, "NaN or infinite values", "finite values", FETCH)
    for factor, out in (("U1", "C1"), ("U2", "C2"), ("U3", "C3")):
        held = found["U_shared"] if is_shared else found[factor]
        if held.shape[1] < found[out].shape[1]:
            refuse(
                place,
                factor,
                f"shape {list(held.shape)}",
                f"{found[out].shape[1]} columns as {out} has",
                FETCH,
            )
