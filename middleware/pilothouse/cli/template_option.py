"""The option of verbs that put a conversation into a model's chat template."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from pilothouse.errors import ConfigError

ChatTemplateKwargs = Annotated[
    str | None,
    typer.Option(help="Variables of the chat template, as JSON: '{\"enable_thinking\": false}'."),
]


def template_kwargs(words: str | None) -> dict[str, Any]:
    """The object that the option holds.

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
            f"--chat-template-kwargs: got {words!r:.80}, want an object: "
            "'{\"enable_thinking\": false}'"
        )
    return found
