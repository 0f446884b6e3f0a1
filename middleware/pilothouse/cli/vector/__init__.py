"""`pilothouse vector`: makes, imports and shows steering vectors."""

from __future__ import annotations

import typer

from pilothouse.cli.vector.bake import bake_program
from pilothouse.cli.vector.fit import EPILOG, fit_vector
from pilothouse.cli.vector.import_file import import_vector
from pilothouse.cli.vector.show import show

app = typer.Typer(
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Make, import and look at steering vectors.",
)


@app.callback()
def vector() -> None:
    """Make, import and look at steering vectors."""


app.command("fit", epilog=EPILOG, context_settings={"allow_extra_args": True})(fit_vector)
app.command("import")(import_vector)
app.command("bake")(bake_program)
app.command()(show)
