"""What the operator says of an SAE beside its files, and how it goes with what they say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from pilothouse.artifacts.folder import complaint, refuse
from pilothouse.artifacts.saes.mapped_file import FETCH
from pilothouse.errors import ArtefactError
from pilothouse.types import Site, Tap

Where = tuple[int | None, Site | None]
NOWHERE: Where = (None, None)


class UnknownNorm(ArtefactError):
    """Neither the file nor the operator says the mean length of the SAE's inputs."""


class UnknownModel(ArtefactError):
    """Neither the file nor the operator says the SAE's model."""


class SaeHints(NamedTuple):
    """What the operator says of an SAE beside its files; where a file says it too, they agree."""

    model_id: str | None = None
    layer: int | None = None
    site: Site | None = None
    average_norm: float | None = None
    """Mean length of h at the tap: bounds on edits are shares of it, and some SAEs were trained on
    inputs scaled by it."""
    is_centred: bool | None = None
    """Whether it knows a stream without its mean: many files of TransformerLens' do not say."""


def agreed(
    place: Path, told: SaeHints, model_id: str | None, where: Where, *, remedy: str
) -> tuple[str, Tap]:
    """Return model and tap, from the file or the operator.

    Args:
        place: the file that errors name.
        told: what the operator says.
        model_id: the model that the file names, if it names one.
        where: what the file says of layer and site; a tap, or either part of one.
        remedy: what to do where nobody says one of them.

    Raises:
        UnknownModel: nobody says the model, though layer and site are known.
        ArtefactError: nobody says layer or site, or the two say different things.
    """
    layer, site = where
    found = {
        "layer": (layer, told.layer),
        "site": (site, told.site),
        "model_id": (model_id, told.model_id),
    }
    for field_name, (said, wanted) in found.items():
        if said is None and wanted is None:
            kind = UnknownModel if field_name == "model_id" else ArtefactError
            raise kind(complaint(place, field_name, "nothing", "a value", remedy))
        if None not in (said, wanted) and said != wanted:
            refuse(
                place,
                field_name,
                repr(said),
                f"{wanted!r} as pilothouse.yaml says",
                f"correct {field_name} in pilothouse.yaml, or name another file",
            )
    layer = told.layer if layer is None else layer
    model, named = model_id or told.model_id, site or told.site
    assert model is not None
    assert layer is not None
    assert named is not None
    return model, Tap(layer, named)


def scale_of_input(place: Path, width: int, said: float | None, told: SaeHints) -> float:
    """Return sqrt(D) over the mean length of h, for SAEs trained on inputs of length sqrt(D).

    Raises:
        UnknownNorm: neither the file nor the operator says the length.
        ArtefactError: it is not positive, or the two say different lengths.
    """
    norm = said if said is not None else told.average_norm
    if norm is None:
        raise UnknownNorm(
            complaint(
                place,
                "average norm",
                "nothing",
                "the mean length of h at the tap in training",
                "give `average_norm`: without it features are on or off wrongly",
            )
        )
    if said is not None and told.average_norm is not None and said != told.average_norm:
        refuse(
            place,
            "average norm",
            said,
            f"{told.average_norm} as pilothouse.yaml says",
            "leave `average_norm` out: the file has its own",
        )
    if not 0 < norm < math.inf:
        refuse(place, "average norm", norm, "a positive number", FETCH)
    return math.sqrt(width) / norm
