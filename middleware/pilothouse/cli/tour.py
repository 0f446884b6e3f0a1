"""`pilothouse demo --tour`: plain, steered and blocked side by side, live from the server."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx

from pilothouse.cli.demo import SERVED_NAME, STYLED, wait_until_ready
from pilothouse.cli.prompts import DemoPrompts, load_prompts
from pilothouse.errors import ConfigError

STOP_SECONDS: Final = 60
MAX_TOKENS: Final = 64


@dataclass(frozen=True, slots=True)
class Stop:
    """One thing the tour shows."""

    title: str
    model: str
    prompt: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What the server answered."""

    text: str
    action: str
    scores: dict[str, float]
    rules: tuple[str, ...]
    steered: dict[str, int]


def show(host: str, port: int) -> None:
    """Ask a running demo server, or one started for the purpose, and print what it says."""
    url = f"http://{host}:{port}"
    with _server(url, host, port):
        seen = [(stop, ask(url, stop)) for stop in stops(load_prompts())]
    _print(seen)


def stops(prompts: DemoPrompts) -> tuple[Stop, ...]:
    """The tour's stops."""
    return (
        Stop("plain", SERVED_NAME, prompts.known),
        Stop("steered", STYLED, prompts.known),
        Stop("blocked", SERVED_NAME, prompts.blocked),
    )


def ask(url: str, stop: Stop) -> Seen:
    """One question.

    Raises:
        ConfigError: the server does not answer as the demo does.
    """
    body = {
        "model": stop.model,
        "messages": [{"role": "user", "content": stop.prompt}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "pilothouse": {"scores": "summary"},
    }
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)
    if answer.status_code != 200:
        raise ConfigError(f"{url} answered {answer.status_code}: {answer.text[:300]}")
    choice: dict[str, Any] = answer.json()["choices"][0]
    said = choice["message"]["content"] or choice["message"]["refusal"] or ""
    told = choice["pilothouse"]
    rules = tuple(f"{each['policy']}/{each['rule']}: {each['result']}" for each in told["rules"])
    return Seen(said.strip(), told["action"], told.get("scores", {}), rules, told["steered"])


@contextmanager
def _server(url: str, host: str, port: int) -> Iterator[None]:
    """The demo at this address: the one that runs, or a new one that ends with the tour."""
    if wait_until_ready(url, seconds=1):
        yield
        return
    start = "from pilothouse.cli import main; main()"
    command = [sys.executable, "-c", start, "demo", "--quiet", "--host", host]
    process = subprocess.Popen([*command, "--port", str(port)], start_new_session=True)
    try:
        if not _comes_up(process, url):
            raise ConfigError(f"the demo server on {url} did not start; see its output above")
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=STOP_SECONDS)


def _comes_up(process: subprocess.Popen[bytes], url: str) -> bool:
    while process.poll() is None:
        if wait_until_ready(url, seconds=2):
            return True
    return False


def _print(seen: list[tuple[Stop, Seen]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_lines=True, title="One model, one server: live answers")
    for title in ("", *(stop.title for stop, _ in seen)):
        table.add_column(title, overflow="fold")
    table.add_row("model", *(stop.model for stop, _ in seen))
    table.add_row("prompt", *(stop.prompt for stop, _ in seen))
    table.add_row("answer", *(answer.text for _, answer in seen))
    table.add_row("action", *(answer.action for _, answer in seen))
    table.add_row("steered", *(_tokens(answer) for _, answer in seen))
    table.add_row("rules", *("\n".join(answer.rules) or "-" for _, answer in seen))
    table.add_row("scores", *(_scores(answer) for _, answer in seen))
    Console().print(table)


def _scores(seen: Seen) -> str:
    return "\n".join(f"{name} {value:.3f}" for name, value in seen.scores.items()) or "-"


def _tokens(seen: Seen) -> str:
    return "\n".join(f"{name}: {count} tokens" for name, count in seen.steered.items()) or "-"
