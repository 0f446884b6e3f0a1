"""What verbs share: how they end on an error, and options that several of them have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from pilothouse.errors import ArtefactError, ConfigError, PilothouseError

FINDING, WRONG_USE = 1, 2
OPTIONS = {
    "compare": "--check",
    "format_name": "--format",
    "kind": "--as",
    "layers": "--layer",
}
"""Arguments of functions whose option is called otherwise."""

ChatTemplateKwargs = Annotated[
    str | None,
    typer.Option(help="Variables of the chat template, as JSON: '{\"enable_thinking\": false}'."),
]


@contextmanager
def exits(*findings: type[PilothouseError]) -> Iterator[None]:
    """End the verb where something is refused: its text on stderr, and 1 or 2.

    Args:
        findings: kinds of errors that exit with 1, beside files that cannot be used.
    """
    try:
        yield
    except PilothouseError as error:
        typer.echo(error.spelled(as_option), err=True)
        is_finding = isinstance(error, (ArtefactError, *findings))
        raise typer.Exit(FINDING if is_finding else WRONG_USE) from error


def as_option(name: str, value: str | None) -> str:
    """Spell an argument of a function as the option that sets it, with the value to give it.

    Keys of `engine` are flags of vLLM's, which stand behind `--`.
    """
    whole, _, key = name.partition(".")
    option = OPTIONS.get(name, f"--{(key or name).replace('_', '-')}")
    told = option if value in (None, "True") else f"{option} {value}"
    return f"{told} behind --" if whole == "engine" else told


def template_kwargs(words: str | None) -> dict[str, Any]:
    """Parse the object that `--chat-template-kwargs` holds.

    Raises:
        ConfigError: no JSON object.
    """
    if words is None:
        return {}
    try:
        found = json.loads(words)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"--chat-template-kwargs: got {words!r:.80}, not JSON: {error}"
        ) from error
    if not isinstance(found, dict):
        raise ConfigError(
            where="--chat-template-kwargs",
            got=f"{words!r:.80}",
            want="an object",
            fix="write '{\"enable_thinking\": false}'",
        )
    return found
