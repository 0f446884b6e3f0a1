"""What a term means: which operator, where it edits, and what it needs of the engine.

The operators stand in `edit.ops`; docs/reference/operators has a page for each. A term edits at its
artefact's own taps, or at everything that writes to the stream.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from pilothouse.artifacts.catalog import Source
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.transform import Transform
from pilothouse.edits.operator import DEFAULTS, EXTRAS, OPERATORS, OperatorSpec, register
from pilothouse.edits.ops import KINDS
from pilothouse.edits.sources import Sources
from pilothouse.errors import RequestError
from pilothouse.term import SteerTerm
from pilothouse.types import PROJECTION_SITES, Site, Tap

if TYPE_CHECKING:
    from pilothouse.edits.table import Parts

__all__ = [
    "DEFAULTS",
    "EXTRAS",
    "OPERATORS",
    "OperatorSpec",
    "Place",
    "features_of",
    "form_of",
    "operator_of",
    "places_of",
    "register",
    "strength_of",
    "with_extras",
    "writers",
]


def form_of(source: Source | Sae) -> str:
    """Return `vector`, `sae`, or the form of a transform."""
    if isinstance(source, Sae):
        return "sae"
    return source.form if isinstance(source, Transform) else "vector"


def operator_of(term: SteerTerm, source: Source) -> str:
    """Return the operator of a term, after a check of what it takes.

    Raises:
        RequestError: an operator that does nothing with this artefact, a number that is missing,
            or one that would have no effect.
    """
    form = form_of(source)
    name = term.op or DEFAULTS[form]
    able = {each: spec for each, spec in OPERATORS.items() if form in spec.forms}
    if name not in able:
        _refuse(term, "op", f"got {name!r}, want one of {sorted(able)}: {term.name!r} is a {form}")
    spec = able[name]
    if spec.needs_scale and term.scale is None:
        _refuse(term, "scale", f"got nothing, want a number for {name!r}")
    if term.scale is not None and not spec.takes_scale:
        _refuse(term, "scale", f"got {term.scale:g}, but {name!r} takes no scale: remove it")
    if spec.takes_value and spec.needs_value and term.value is None:
        _refuse(term, "value", f"got nothing, want a number for {name!r}")
    if term.value is not None and not spec.takes_value:
        _refuse(term, "value", f"got {term.value:g}, but {name!r} takes no value: remove it")
    if term.gate is not None and not spec.is_addition:
        _refuse(term, "gate", f"got one with {name!r}, want `op: add`: only additions are gated")
    _check_unit(term, name)
    if spec.share and term.scale is not None and not 0 < term.scale <= 1:
        _refuse(term, "scale", f"got {term.scale:g}, want a share of the way, over 0, at most 1")
    for field_name, number in (("scale", term.scale), ("value", term.value)):
        if number is not None and not math.isfinite(number):
            _refuse(term, field_name, f"got {number}, want a finite number")
    return name


def _check_unit(term: SteerTerm, name: str) -> None:
    if term.unit != "raw" and not OPERATORS[name].takes_unit:
        _refuse(term, "unit", f"got {term.unit!r}, but {name!r} counts nothing in it: remove it")
    if term.unit == "max_act":
        _refuse(term, "unit", "got 'max_act', which is of SAE features, want another")
    if term.unit == "token" and not OPERATORS[name].is_addition:
        _refuse(term, "unit", f"got 'token' with {name!r}, want 'raw', 'unit' or 'residual'")
    if term.unit == "token" and term.gate is not None:
        _refuse(term, "unit", "got 'token' with a gate, want 'raw', 'unit' or 'residual'")


def features_of(term: SteerTerm, source: Source | Sae) -> dict[str, str]:
    """Return what a term needs of the engine's tables: its field -> operator or extra.

    Raises:
        RequestError: as `operator_of`.
    """
    wanted = {} if isinstance(source, Sae) else {"op": operator_of(term, source)}
    return wanted | {
        extra.field: name for name, extra in sorted(EXTRAS.items()) if extra.asked(term)
    }


def strength_of(term: SteerTerm, source: Source | Sae) -> float:
    """Return what multiplies all that a term writes: its scale, or 1 where that is no strength."""
    if isinstance(source, Sae):
        return 1.0
    spec = OPERATORS[operator_of(term, source)]
    return term.scale if spec.strength and term.scale is not None else 1.0


def with_extras(term: SteerTerm, parts: Parts, tap: Tap, sources: Sources) -> Parts:
    """Return the parts of a term once its fields beside the operator are heeded.

    Raises:
        RequestError: a gate whose probe cannot be read there.
    """
    for kind in KINDS.values():
        parts = kind.of_term(term, parts, tap, sources)
    return parts


def _refuse(term: SteerTerm, what: str, said: str) -> NoReturn:
    raise RequestError(f"steer: {what} of {term.name!r}: {said}", param="steer")


class Place(NamedTuple):
    """A tap, and the layer of the artefact whose numbers are used there."""

    tap: Tap
    layer: int


def places_of(term: SteerTerm, sources: Sources) -> tuple[Place, ...]:
    """Return every tap at which a term edits, in the order of the layers.

    With `sites: writers` these are the embedding and what attention and MLP add at every layer,
    all with the direction of one layer: so the stream never has what is ablated (Arditi et al.,
    arXiv 2406.11717, section 2.4).

    Raises:
        RequestError: a layer that the artefact does not have, or writers with anything but the
            ablation of one layer's direction in the stream.
    """
    source = sources.of(term)
    layers = _layers(term, source)
    if term.sites == "own":
        return tuple(Place(Tap(layer, source.site), layer) for layer in layers)
    if isinstance(source, Sae):
        raise RequestError(
            f"steer: sites: got 'writers' with SAE {term.name!r}, want it with a vector",
            param="steer",
        )
    name = operator_of(term, source)
    if not OPERATORS[name].at_writers:
        raise RequestError(
            f"steer: sites: got 'writers' with {name!r}, want it with 'ablate'", param="steer"
        )
    if source.site in PROJECTION_SITES:
        raise RequestError(
            f"steer: sites: got 'writers' with {term.name!r}, which is at {source.site}; want a "
            "direction of the residual stream",
            param="steer",
        )
    if len(layers) != 1:
        raise RequestError(
            f"steer: sites: 'writers' ablates one direction, {term.name!r} has one at each of "
            f"layers {list(layers)}: choose one with `layers: [{layers[-1]}]`",
            param="steer",
        )
    return tuple(Place(tap, layers[0]) for tap in writers(sources.num_layers))


def writers(num_layers: int) -> tuple[Tap, ...]:
    """Return every tap where something is added to the residual stream."""
    added: tuple[Site, ...] = ("attn_out", "mlp_out")
    return (Tap(0, "embed"), *(Tap(layer, site) for layer in range(num_layers) for site in added))


def _layers(term: SteerTerm, source: Source | Sae) -> tuple[int, ...]:
    if term.layers is None:
        return source.layers
    for layer in term.layers:
        if layer not in source.layers:
            raise RequestError(
                f"steer: layers of {term.name!r}: got {layer}, want any of {list(source.layers)}",
                param="steer",
            )
    return tuple(sorted(set(term.layers)))
