"""`pilothouse sae`: imports SAEs of other libraries, and shows what is in one."""

from __future__ import annotations

import typer

from pilothouse.cli.sae.features import features
from pilothouse.cli.sae.import_folder import import_sae
from pilothouse.cli.sae.probe import probe
from pilothouse.cli.sae.show import show

app = typer.Typer(
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Import and look at sparse autoencoders.",
)


@app.callback()
def sae() -> None:
    """Import and look at sparse autoencoders."""


app.command("import")(import_sae)
app.command()(show)
app.command()(features)
app.command()(probe)
