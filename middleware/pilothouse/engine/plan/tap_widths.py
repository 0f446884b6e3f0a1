"""How wide each tap is: as the stream, or at a projection as the artefacts there have it."""

from __future__ import annotations

from collections.abc import Iterable

from pilothouse.artifacts.catalog import Catalog
from pilothouse.engine.plan.plan import Plan
from pilothouse.engine.plan.spec import ModelFacts
from pilothouse.errors import ConfigError
from pilothouse.types import PROJECTION_SITES, Tap


def tap_widths(
    taps: Iterable[Tap], catalog: Catalog, model: ModelFacts, running: Plan | None
) -> dict[Tap, int]:
    """Elements of a token at each tap, on all ranks together; workers check it.

    A tap that is reserved with nothing loaded there is as wide as the model's configuration says.

    Raises:
        ConfigError: two artefacts disagree, one does not fit a running tap, or nothing tells.
    """
    known = {
        each.tap: ("the running server", each.width)
        for each in (running.body.taps if running else ())
    }
    for each in (
        *catalog.vectors.values(),
        *catalog.probes.values(),
        *catalog.saes.values(),
    ):
        for layer in each.layers:
            tap = Tap(layer, each.site)
            other, width = known.setdefault(tap, (each.name, each.width))
            if width != each.width:
                raise ConfigError(
                    f"{each.name}: of width {each.width} at {tap.site} of layer {layer}, where "
                    f"{other} has {width}: load artefacts that were made for this model"
                )
    return {tap: known[tap][1] if tap in known else _of_model(tap, model) for tap in taps}


def _of_model(tap: Tap, model: ModelFacts) -> int:
    if tap.site not in PROJECTION_SITES:
        return model.d_model
    if tap.site not in model.projection_widths:
        raise ConfigError(
            f"taps.{tap.site}: {model.model_id}'s configuration does not say how wide {tap.site} "
            "is: load a vector or probe there at start, which does"
        )
    return model.projection_widths[tap.site]
