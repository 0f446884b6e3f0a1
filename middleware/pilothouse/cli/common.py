"""What verbs share: how they end on an error, and options that several of them have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from pilothouse.config import NAME
from pilothouse.errors import ArtefactError, ConfigError, PilothouseError
from pilothouse.output_dir import check_out

FINDING, WRONG_USE, INTERRUPTED = 1, 2, 130
LAYERS: Final = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")
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


def check_named_out(out: Path) -> None:
    """Refuse a folder that holds something, or whose name no artefact may have.

    Raises:
        ConfigError: it is such a one.
    """
    check_out(out)
    if re.fullmatch(NAME, out.resolve().name) is None:
        raise ConfigError(
            where="--out", got=repr(out.name), want="a name of letters, digits and . _ -"
        )


def layer_numbers(words: str, *, want: str = "numbers and ranges: 4,8-12") -> tuple[int, ...]:
    """Parse numbers and ranges into the layers that they name, in order.

    Args:
        words: what `--layers` was given.
        want: what it takes, for the message.

    Raises:
        ConfigError: something else.
    """
    found: set[int] = set()
    for word in words.split(","):
        match = LAYERS.fullmatch(word.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise ConfigError(where="--layers", got=repr(word), want=want)
        found |= set(range(first, last + 1))
    return tuple(sorted(found))


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
