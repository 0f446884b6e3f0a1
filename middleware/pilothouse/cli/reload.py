"""`pilothouse reload`: has a running server on this machine read its pilothouse.yaml again."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any, Final

import httpx
import typer

from pilothouse.errors import ConfigError

RELOAD_SECONDS: Final = 180

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def reload(
    url: Annotated[
        str, typer.Option(help="Where the server listens; a loopback address.")
    ] = "http://127.0.0.1:8000",
    uds: Annotated[
        str | None,
        typer.Option(help="The Unix socket that the server listens on, in the place of --url."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Load and unload what has changed, without a restart. A key is taken from VLLM_API_KEY."""
    answer = _ask(url, uds)
    typer.echo(json.dumps(answer, indent=2) if as_json else _text(answer))


def _ask(url: str, uds: str | None) -> dict[str, Any]:
    key = os.environ.get("VLLM_API_KEY")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        # A proxy of the environment would make the call one that was passed on.
        transport = httpx.HTTPTransport(uds=uds)
        with httpx.Client(transport=transport, timeout=RELOAD_SECONDS) as client:
            answer = client.post(f"{url.rstrip('/')}/pilothouse/v1/reload", headers=headers)
        body: dict[str, Any] = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise ConfigError(
            f"reload {'--url' if uds is None else '--uds'}: got {uds or url!r}, where no "
            f"Pilothouse server answers: {error}"
        ) from error
    if answer.status_code != 200:
        told = body.get("error")
        message = told.get("message") if isinstance(told, dict) else body
        raise ConfigError(f"reload: {answer.status_code}: {message}")
    return body


def _text(answer: dict[str, Any]) -> str:
    if answer["revision"] == answer["previous"]:
        return f"revision {answer['revision']} runs already"
    lines = [f"revision {answer['previous']} -> {answer['revision']} in {answer['seconds']} s"]
    for word in ("added", "removed", "changed"):
        lines += [f"{word} {each}" for each in answer[word]]
    lines += [f"process {each} has not switched yet" for each in answer["lagging_processes"]]
    return "\n".join(lines)
