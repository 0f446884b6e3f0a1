"""Programs: what the terms that hold at a position do together, at every tap, without strength.

Order at a tap: the maps of the whole stream; codes and planes, each on the result of these maps;
projections, on the result; additions; the norm. Projections on directions that are not orthogonal
use the dual basis, so that each coordinate gets exactly what its operator says. Additions that a
gate weighs read what the codes read.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from types import MappingProxyType
from typing import NamedTuple

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.edits.feature import feature_growth, feature_parts
from pilothouse.edits.layer import Assembly, LayerEdit
from pilothouse.edits.operators import OPERATORS, operator_of, places_of, strength_of, with_extras
from pilothouse.edits.sources import Sources
from pilothouse.term import SteerTerm
from pilothouse.types import Tap

DIGEST_DOMAIN = b"pilothouse program 3\n"
CACHED_BYTES = 64 << 20

Layers = Mapping[Tap, LayerEdit]


class Program(NamedTuple):
    """Everything it writes is multiplied by `coefficient`; the digest is of the numbers alone."""

    digest: str
    coefficient: float
    layers: Layers


class _Share(NamedTuple):
    """A term at its strength relative to the strongest, stripped of where it holds."""

    weight: float
    term: SteerTerm


def compile_program(terms: Sequence[SteerTerm], sources: Sources) -> Program | None:
    """Return the terms that hold at the same positions, as one program and one coefficient.

    The coefficient is the largest strength with the first one's sign, so that programs that differ
    in overall strength alone share a digest. None where nothing is written: no terms, zero scales,
    or additions that cancel.

    Raises:
        RequestError: an unknown name or layer, an operator that does not fit, directions too near
            to parallel, two maps of one kind at one tap, or numbers that are not finite.
    """
    weighed = [(strength_of(term, sources.of(term)), term) for term in terms]
    strengths = [each for each, _ in weighed if each != 0.0]
    if not strengths:
        return None
    whole = math.copysign(max(abs(each) for each in strengths), strengths[0])
    shares = tuple(
        _Share(strength / whole, _stripped(term, sources))
        for strength, term in weighed
        if strength != 0.0
    )
    digest, layers = _program(sources, shares)
    return Program(digest, whole, layers) if layers else None


def growth(terms: Sequence[SteerTerm], sources: Sources) -> dict[Tap, float]:
    """Per tap, a bound on how much longer the stream can get, as a share of its mean length.

    Additions that hold together count by their sum, everything else one by one.

    Raises:
        RequestError: as `compile_program`.
    """
    program = compile_program(terms, sources)
    if program is None:
        return {}
    bounds: dict[Tap, float] = {}
    shortest: dict[Tap, float] = {}
    for term in terms:
        source = sources.of(term)
        if isinstance(source, Sae):
            bounds[source.tap] = bounds.get(source.tap, 0.0) + feature_growth(term, source)
            continue
        spec = OPERATORS[operator_of(term, source)]
        for tap, layer in places_of(term, sources):
            norm = source.residual_norm(layer)
            shortest[tap] = min(norm, shortest.get(tap, norm))
            if not spec.is_addition or term.gate is not None:
                bounds[tap] = bounds.get(tap, 0.0) + spec.growth(term, source, layer)
    for tap, edit in program.layers.items():
        # Nothing is measured at a tap of features alone, and none of their tables asks.
        longer = sum(each.growth(shortest.get(tap, 1.0)) for each in edit.tables)
        bounds[tap] = bounds.get(tap, 0.0) + abs(program.coefficient) * longer
    return {tap: bounds.get(tap, 0.0) for tap in program.layers}


def _stripped(term: SteerTerm, sources: Sources) -> SteerTerm:
    source, placeless = sources.of(term), {"on": "all", "positions": None}
    if isinstance(source, Sae):
        return term.model_copy(update=placeless)
    name = operator_of(term, source)
    scale = 1.0 if OPERATORS[name].strength and OPERATORS[name].takes_scale else term.scale
    return term.model_copy(update={"scale": scale, "op": name, **placeless})


def forget_programs() -> None:
    """Let go of every compiled program that nobody holds, and of the sources they came from."""
    _CACHE.clear()


class _Cache:
    """The programs that were asked for last, as many as fit into a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: OrderedDict[_Key, tuple[int, tuple[str, Layers]]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def get(self, key: _Key) -> tuple[str, Layers] | None:
        with self._lock:
            if key not in self._held:
                return None
            self._held.move_to_end(key)
            return self._held[key][1]

    def put(self, key: _Key, program: tuple[str, Layers]) -> None:
        size = sum(each.num_bytes for each in program[1].values())
        with self._lock:
            if key in self._held or size > self._max_bytes:
                return
            self._held[key] = size, program
            self._bytes += size
            while self._bytes > self._max_bytes:
                self._bytes -= self._held.popitem(last=False)[1][0]

    def clear(self) -> None:
        with self._lock:
            self._held.clear()
            self._bytes = 0


_Key = tuple[Sources, tuple[_Share, ...]]
_CACHE = _Cache(CACHED_BYTES)


def _program(sources: Sources, shares: tuple[_Share, ...]) -> tuple[str, Layers]:
    key = sources, shares
    program = _CACHE.get(key)
    if program is None:
        program = _compiled(sources, shares)
        _CACHE.put(key, program)
    return program


def _compiled(sources: Sources, shares: tuple[_Share, ...]) -> tuple[str, Layers]:
    built: dict[Tap, Assembly] = {}
    widths: dict[Tap, int] = {}
    features: dict[str, list[_Share]] = {}
    """By the content of their SAE, which can be loaded under several names."""
    saes: dict[str, Sae] = {}
    for share in shares:
        source = sources.of(share.term)
        if isinstance(source, Sae):
            places_of(share.term, sources)
            saes.setdefault(source.digest, source)
            features.setdefault(source.digest, []).append(share)
            continue
        spec = OPERATORS[operator_of(share.term, source)]
        for tap, layer in places_of(share.term, sources):
            widths[tap] = source.width
            parts = with_extras(share.term, spec.compile(share.term, source, layer), tap, sources)
            built.setdefault(tap, Assembly(tap)).take(share.term, share.weight, parts)
    for digest, asked in features.items():
        sae = saes[digest]
        widths[sae.tap] = sae.width
        parts = feature_parts([share.term for share in asked], sae)
        # Their strengths lie in the codes, so that all of them have one weight.
        for share in asked:
            taken = with_extras(share.term, parts, sae.tap, sources)
            built.setdefault(sae.tap, Assembly(sae.tap)).take(share.term, share.weight, taken)
            parts = ()
    layers = {tap: built[tap].edit(widths[tap]) for tap in sorted(built)}
    kept = {tap: edit for tap, edit in layers.items() if edit is not None}
    return _digest(kept), MappingProxyType(kept)


def _digest(layers: Layers) -> str:
    state = hashlib.sha256(DIGEST_DOMAIN)
    for tap, edit in layers.items():
        content = edit.content()
        state.update(f"{tap.layer} {tap.site} {len(content)}\n".encode())
        state.update(content)
    return state.hexdigest()
