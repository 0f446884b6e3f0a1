"""Additive steering: h' = h + coefficient * row, at each layer a vector has.

Shapes: D = d_model. Arithmetic is float64 and the rows are rounded once, to float32.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pilothouse.errors import RequestError
from pilothouse.model.catalogue import Catalogue
from pilothouse.model.vector import Vector
from pilothouse.sealed import SteerTerm
from pilothouse.types import Unit

DIGEST_DOMAIN = b"pilothouse additive program 1\n"
CACHED_PROGRAMS = 64

Rows = Mapping[int, NDArray[np.float32]]


class Program(NamedTuple):
    """`delta_l = coefficient * rows[l]`; the digest is of the rows alone, never of a name."""

    digest: str
    coefficient: float
    rows: Rows


class _Share(NamedTuple):
    """A term without the overall strength."""

    vector: str
    weight: float
    unit: Unit
    layers: tuple[int, ...] | None


def row_D(vector: Vector, layer: int, unit: Unit) -> NDArray[np.float32]:
    """The float32 row whose multiple by a scale is what is added at a layer.

    `raw` is the direction as stored, `unit` has length 1, `residual` has the model's mean
    residual norm at the tap, so that a scale is a fraction of it.

    Raises:
        RequestError: the vector has nothing at this layer.
    """
    return _row64_D(vector, layer, unit).astype(np.float32)


def program_rows(terms: Sequence[SteerTerm], catalogue: Catalogue) -> Program | None:
    """The sum of the terms that hold for one clause, as one program and one coefficient.

    The coefficient is the largest |scale| with the first term's sign, so that programs that differ
    in overall strength alone share a digest. None where nothing is added: no terms, zero scales, or
    terms that cancel.

    Raises:
        RequestError: an unknown vector, a layer it does not have, or a scale that is not finite.
    """
    strength = _strength(terms)
    if strength == 0.0:
        return None
    shares = tuple(
        _Share(each.vector, each.scale / strength, each.unit, each.layers)
        for each in terms
        if each.scale != 0.0
    )
    digest, rows = _program(catalogue, shares)
    return Program(digest, strength, rows) if rows else None


def norm_ratio(terms: Sequence[SteerTerm], catalogue: Catalogue) -> dict[int, float]:
    """Per layer, the length of what the terms add as a fraction of the mean residual norm.

    Where the vectors at a layer differ in that norm, the smallest counts.

    Raises:
        RequestError: as `program_rows`.
    """
    program = program_rows(terms, catalogue)
    if program is None:
        return {}
    return {
        layer: abs(program.coefficient)
        * float(np.linalg.norm(row.astype(np.float64)))
        / _residual_norm(terms, catalogue, layer)
        for layer, row in program.rows.items()
    }


def _strength(terms: Sequence[SteerTerm]) -> float:
    for each in terms:
        if not math.isfinite(each.scale):
            raise RequestError(
                f"steer: scale of {each.vector!r}: got {each.scale}, want a finite number",
                param="steer",
            )
    scales = [each.scale for each in terms if each.scale != 0.0]
    if not scales:
        return 0.0
    return math.copysign(max(abs(each) for each in scales), scales[0])


@lru_cache(maxsize=CACHED_PROGRAMS)
def _program(catalogue: Catalogue, shares: tuple[_Share, ...]) -> tuple[str, Rows]:
    parts: dict[int, list[NDArray[np.float64]]] = {}
    for share in shares:
        vector = _vector(catalogue, share.vector)
        for layer in vector.layers if share.layers is None else sorted(set(share.layers)):
            part_D = share.weight * _row64_D(vector, layer, share.unit)
            parts.setdefault(layer, []).append(part_D)
    rows = {layer: _sum_D(parts[layer]) for layer in sorted(parts)}
    rows = {layer: row for layer, row in rows.items() if row.any()}
    return _digest(rows), MappingProxyType(rows)


def _sum_D(parts: list[NDArray[np.float64]]) -> NDArray[np.float32]:
    # Sorted by value in each dimension, so that the order of terms cannot change a bit.
    sum64_D = np.sort(np.stack(parts), axis=0).sum(axis=0)
    total_D: NDArray[np.float32] = sum64_D.astype(np.float32) + np.float32(0)
    total_D.setflags(write=False)
    return total_D


def _digest(rows: Rows) -> str:
    state = hashlib.sha256(DIGEST_DOMAIN)
    for layer, row in rows.items():
        state.update(layer.to_bytes(4, "little") + row.size.to_bytes(4, "little"))
        state.update(row.astype("<f4").tobytes())
    return state.hexdigest()


def _row64_D(vector: Vector, layer: int, unit: Unit) -> NDArray[np.float64]:
    if layer not in vector.layers:
        raise RequestError(
            f"steer: layers of {vector.name!r}: got {layer}, want any of {list(vector.layers)}",
            param="steer",
        )
    direction_D = vector.direction_D(layer).astype(np.float64)
    if unit == "raw":
        return direction_D
    unit_D: NDArray[np.float64] = direction_D / np.linalg.norm(direction_D)
    return unit_D if unit == "unit" else unit_D * vector.residual_norm(layer)


def _vector(catalogue: Catalogue, name: str) -> Vector:
    if name not in catalogue.vectors:
        raise RequestError(
            f"steer: vector: got {name!r}, want one of {sorted(catalogue.vectors)}", param="steer"
        )
    return catalogue.vectors[name]


def _residual_norm(terms: Sequence[SteerTerm], catalogue: Catalogue, layer: int) -> float:
    return min(
        vector.residual_norm(layer)
        for vector in (catalogue.vectors[each.vector] for each in terms if each.scale != 0.0)
        if layer in vector.layers
    )
