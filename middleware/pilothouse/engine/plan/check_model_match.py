"""Whether what is loaded was made for the served model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pilothouse.artifacts.catalog import Catalog, Source
from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.config import PilothouseConfig
from pilothouse.engine.plan.spec import ModelFacts
from pilothouse.errors import ConfigError
from pilothouse.types import PROJECTION_SITES

if TYPE_CHECKING:
    from pilothouse.artifacts.probe import Probe


def check_model_match(config: PilothouseConfig, catalog: Catalog, model: ModelFacts) -> None:
    """Refuse artefacts of another model or width, and layers that the model lacks.

    Raises:
        ConfigError: a line for each.
    """
    problems = []
    names = {config.model_id or model.model_id, config.model_id or Path(model.model_id).name}
    kinds: Sequence[tuple[str, Mapping[str, Source | Probe | Sae]]] = (
        ("vectors", catalog.vectors),
        ("probes", catalog.probes),
        ("saes", catalog.saes),
    )
    for kind, loaded in kinds:
        for name, each in loaded.items():
            if each.model_id not in names:
                problems.append(
                    f"{kind}.{name}: made for {each.model_id}; served is {model.model_id}: load "
                    "one made for this model or, where both are the same weights, say so with "
                    f"`model_id: {each.model_id}` in pilothouse.yaml"
                )
            width = _stream_width(each)
            if width not in (None, model.d_model):
                problems.append(
                    f"{kind}.{name}: made for {each.model_id} of width {width}; "
                    f"{model.model_id} has width {model.d_model}: load one made for this model"
                )
            outside = [layer for layer in each.layers if layer >= model.num_layers]
            if outside:
                problems.append(
                    f"{kind}.{name}: layers {outside} do not exist; {model.model_id} has "
                    f"{model.num_layers} layers: use 0..{model.num_layers - 1}"
                )
    for site, layers in config.taps.by_site().items():
        last = 0 if site == "embed" else model.num_layers - 1
        outside = [layer for layer in layers if layer > last]
        if outside:
            problems.append(f"taps.{site}: layers {outside} do not exist; use 0..{last}")
    if problems:
        raise ConfigError("\n".join(problems))


def _stream_width(loaded: Source | Probe | Sae) -> int | None:
    """Of the model it was made for; an SAE of a projection's input does not tell."""
    if isinstance(loaded, Sae):
        return None if loaded.site in PROJECTION_SITES else loaded.width
    return loaded.d_model
