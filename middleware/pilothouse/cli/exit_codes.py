"""How a verb ends on an error: its text on stderr, and 1 for a finding or 2 for wrong use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from pilothouse.errors import ArtefactError, PilothouseError

FINDING, WRONG_USE = 1, 2


@contextmanager
def exits(*findings: type[PilothouseError]) -> Iterator[None]:
    """End the verb where something is refused.

    Args:
        findings: kinds of errors, beside files that cannot be used, that are findings.
    """
    try:
        yield
    except PilothouseError as error:
        typer.echo(str(error), err=True)
        is_finding = isinstance(error, (ArtefactError, *findings))
        raise typer.Exit(FINDING if is_finding else WRONG_USE) from error
