"""Options of the verbs that load an SAE, for what its files leave open."""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from pilothouse.artifacts.saes.autoencoder import Sae
from pilothouse.artifacts.saes.hints import SaeHints
from pilothouse.artifacts.saes.registry import FORMATS
from pilothouse.errors import ConfigError
from pilothouse.types import Site

FormatName = Annotated[
    str | None,
    typer.Option("--format", help=f"The layout, if its files do not tell: {', '.join(FORMATS)}."),
]
ModelId = Annotated[
    str | None, typer.Option("--model-id", help="The model, as other artefacts say.")
]
LayerNumber = Annotated[int | None, typer.Option("--layer", min=0, help="The layer.")]
SiteName = Annotated[str | None, typer.Option("--site", help="Where in the layer.")]
AverageNorm = Annotated[
    float | None, typer.Option("--average-norm", help="Mean length of the inputs in training.")
]

Centred = Annotated[
    bool | None,
    typer.Option(
        "--centred/--not-centred",
        help="Whether it knows a stream without its mean, if the files do not say.",
        show_default=False,
    ),
]


def sae_hints(
    model_id: str | None,
    layer: int | None,
    site: str | None,
    average_norm: float | None,
    is_centred: bool | None,
) -> SaeHints:
    """Collect what the options say.

    Raises:
        ConfigError: a site that there is not.
    """
    if site is not None and site not in get_args(Site):
        raise ConfigError(
            where="--site", got=repr(site), want=f"one of {', '.join(get_args(Site))}"
        )
    chosen = next((each for each in get_args(Site) if each == site), None)
    return SaeHints(model_id, layer, chosen, average_norm, is_centred)


def noted(sae: Sae) -> Sae:
    """Print on stderr what an SAE's files leave open, and return the SAE."""
    for note in sae.notes:
        typer.echo(f"{sae.name}: note: {note}", err=True)
    return sae
