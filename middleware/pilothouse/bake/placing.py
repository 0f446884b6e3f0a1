"""Where each tap's map goes: into the matrix that writes there, in the order of the pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pilothouse.bake.architecture import Writers
from pilothouse.edits.layer import Affine, affine_of
from pilothouse.edits.program import Program
from pilothouse.errors import ConfigError, argument
from pilothouse.term import SteerTerm
from pilothouse.types import Tap

Side = Literal["out", "in", "table"]
INSTEAD = "leave it out, or steer at run time"


class Placed(NamedTuple):
    """A map of what a matrix gives (out), of what it is given (in), or of a table's rows."""

    module: str
    side: Side
    affine: Affine
    tap: Tap


def check_terms(terms: Sequence[SteerTerm]) -> None:
    """Refuse what weights cannot do, before anything is computed.

    Raises:
        ConfigError: names the term, the field, and why.
    """
    for number, term in enumerate(terms):
        where = f"bake: term {number} ({term.name!r})"
        if term.sae is not None:
            raise ConfigError(
                f"{where}: sae: an SAE's feature is gated by its code, and weights "
                f"have no gate; {INSTEAD}"
            )
        if term.on != "all" or term.positions is not None:
            got = f"positions {term.positions}" if term.positions is not None else f"on {term.on!r}"
            raise ConfigError(
                f"{where}: got {got}, want `on: all` and no positions: weights act on every token, "
                f"the prompt's too; say so with {argument('on_all', 'True')} if that is "
                f"meant, or {INSTEAD}"
            )
        for name, given, why in (
            ("gate", term.gate is not None, "weights have no gate"),
            ("restore_norm", bool(term.restore_norm), "a norm is no linear map of the token"),
            ("unit", term.unit == "token", "what is added would hang on each token's length"),
        ):
            if given:
                raise ConfigError(f"{where}: {name}: {why}; {INSTEAD}")


def placed(program: Program, writers: Writers, config: Mapping[str, Any]) -> list[Placed]:
    """Return every map of a program and the matrix that it goes into, in the order of the pass.

    Raises:
        ConfigError: a map that no single matrix can hold; names the tap and why.
    """
    is_parallel = writers.parallel is not None and bool(config.get(writers.parallel, True))
    found = []
    for tap in sorted(program.layers, key=lambda each: each.depth):
        affine = affine_of(program.layers[tap], program.coefficient)
        if isinstance(affine, str):
            raise ConfigError(f"bake: {tap.site} of layer {tap.layer}: has {affine}; {INSTEAD}")
        found += _of_tap(tap, affine, writers, is_parallel)
    return found


def _of_tap(tap: Tap, affine: Affine, writers: Writers, is_parallel: bool) -> list[Placed]:
    block = writers.block.format(tap.layer)
    attention, mlp = f"{block}.{writers.attention}", f"{block}.{writers.mlp}"
    match tap.site:
        case "attn_heads":
            return [Placed(attention, "in", affine, tap)]
        case "mlp_neurons":
            return [Placed(mlp, "in", affine, tap)]
        case "attn_out":
            return [Placed(attention, "out", affine, tap)]
        case "mlp_out":
            return [Placed(mlp, "out", affine, tap)]
        case "embed":
            return _tables(tap, affine, writers)
    if not affine.is_shift:
        raise ConfigError(
            f"bake: {tap.site} of layer {tap.layer}: projects the stream, which many matrices "
            "wrote; weights can only keep the direction out of all of them: ablate with "
            f"`sites: writers`, or {INSTEAD}"
        )
    if tap.site == "resid_mid" and is_parallel:
        raise ConfigError(
            f"bake: resid_mid of layer {tap.layer}: there is none in a parallel block; {INSTEAD}"
        )
    if tap.site == "resid_mid":
        return [Placed(attention, "out", affine, tap)]
    layer = tap.layer if tap.site == "resid_post" else tap.layer - 1
    if layer < 0:
        return _tables(tap, affine, writers)
    return [Placed(f"{writers.block.format(layer)}.{writers.mlp}", "out", affine, tap)]


def _tables(tap: Tap, affine: Affine, writers: Writers) -> list[Placed]:
    """Return maps of tables: a constant goes into one, a projection into each that is summed."""
    shift = affine.constant_D
    made = []
    for name in writers.tables:
        held = affine._replace(constant_D=shift if name == writers.shift else 0.0 * shift)
        if held.right_RD.size or held.constant_D.any():
            made.append(Placed(name, "table", held, tap))
    return made
