"""`pilothouse policy`: checks policies before they are served."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pilothouse.artifacts.catalog import Catalog, load_catalog, signals_of
from pilothouse.config import load_config
from pilothouse.errors import ConfigError
from pilothouse.policy.lint import has_findings, lint
from pilothouse.policy.resolve import Artefacts
from pilothouse.server.open_doors import surroundings_of
from pilothouse.validation_errors import FileError, Problem

app = typer.Typer(pretty_exceptions_enable=False, no_args_is_help=True, help="Look at policies.")


@app.callback()
def policy() -> None:
    """Look at policies."""


@app.command("lint")
def lint_command(
    paths: Annotated[
        list[Path],
        typer.Argument(exists=True, help="Policy files, policy folders or folders of those."),
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="pilothouse.yaml: check probes, readouts, thresholds and vectors against it, and "
            "warn of ways round enforced rules that its settings leave open.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check policies; say what is wrong, what is risky, and what can leave before a verdict.

    Exit 0: good, perhaps with notes. 1: an error or a warning. 2: wrong use.
    """
    try:
        loaded = None if config is None else load_config(config)
        artefacts = None if loaded is None else artefacts_of(load_catalog(loaded))
        around = None if loaded is None else surroundings_of(loaded)
        problems: Sequence[Problem] = lint(paths, artefacts, around)
    except FileError as error:
        problems = error.problems
    except ConfigError as error:
        problems = [Problem(str(config), 0, "", str(error))]
    if as_json:
        findings = [asdict(each) for each in problems]
        typer.echo(json.dumps({"good": not has_findings(problems), "findings": findings}, indent=2))
    else:
        lines = [f"{each.severity:<7} {each}" for each in problems]
        typer.echo("\n".join([*lines, _summary(problems)]))
    raise typer.Exit(1 if has_findings(problems) else 0)


def artefacts_of(catalog: Catalog) -> Artefacts:
    """Return what policies can name of a catalog."""
    return Artefacts(
        {spec.key: spec for probe in catalog.probes.values() for spec in signals_of(probe)},
        {name: probe.default_readout for name, probe in catalog.probes.items()},
        {name: vector.layers for name, vector in catalog.vectors.items()},
        {name: sae.layers for name, sae in catalog.saes.items()},
    )


def _summary(problems: Sequence[Problem]) -> str:
    counts = {
        severity: sum(each.severity == severity for each in problems)
        for severity in ("error", "warning", "note")
    }
    said = ", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items())
    return f"{'findings' if has_findings(problems) else 'good'}: {said}"
