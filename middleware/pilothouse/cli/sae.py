"""`pilothouse sae`: what the features of a sparse autoencoder are."""

from __future__ import annotations

import typer

from pilothouse.cli.sae_features import features

app = typer.Typer(no_args_is_help=True, help="Look at sparse autoencoders.")


@app.callback()
def sae() -> None:
    """Look at sparse autoencoders."""


app.command()(features)
