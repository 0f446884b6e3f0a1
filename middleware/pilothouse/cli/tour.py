"""`pilothouse demo --tour`: shows plain, steered and blocked answers of a server side by side."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx

from pilothouse.cli.demo import START_SECONDS, tour_of, wait_until_ready
from pilothouse.cli.port import is_held
from pilothouse.cli.prompts import Stop, Tour
from pilothouse.demo.served import SMOL_NAME, WORLD_NAME
from pilothouse.errors import ConfigError

STOP_SECONDS: Final = 60
MAX_TOKENS: Final = 64


@dataclass(frozen=True, slots=True)
class Seen:
    """What the server answered."""

    text: str
    action: str
    scores: dict[str, float]
    rules: tuple[str, ...]
    steered: dict[str, int]


NOT_LOADED: Final = Seen("", "not loaded here", {}, (), {})


def show(host: str, port: int, *, question: str | None, is_world: bool) -> None:
    """Ask a running demo server, or one started for the purpose, and print what it says.

    Raises:
        ConfigError: what runs there is no demo, or not the one that was asked for.
    """
    url = f"http://{host}:{port}"
    with _server(url, host, port, is_world=is_world):
        models = served_models(url)
        tour = tour_of(_name(url, models, is_world=is_world)).asking(question)
        seen = [(stop, look(url, tour, stop, models)) for stop in tour.stops]
    _print(tour, seen)


def served_models(url: str) -> list[str]:
    """Return the names that the server answers to, profiles among them.

    Raises:
        ConfigError: it does not answer as the demo does.
    """
    answer = httpx.get(f"{url}/v1/models", timeout=30)
    if answer.status_code != httpx.codes.OK:
        raise ConfigError(f"{url} answered {answer.status_code}: {answer.text[:300]}")
    return [str(each["id"]) for each in answer.json()["data"]]


def look(url: str, tour: Tour, stop: Stop, models: list[str]) -> Seen:
    """Return what one stop shows; nothing is asked of a profile that is not loaded."""
    return ask(url, stop.model, tour.asked(stop)) if stop.model in models else NOT_LOADED


def ask(url: str, model: str, prompt: str) -> Seen:
    """Ask one question.

    Raises:
        ConfigError: the server does not answer as the demo does.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "pilothouse": {"scores": "summary"},
    }
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)
    if answer.status_code != httpx.codes.OK:
        raise ConfigError(f"{url} answered {answer.status_code}: {answer.text[:300]}")
    choice: dict[str, Any] = answer.json()["choices"][0]
    said = choice["message"]["content"] or choice["message"]["refusal"] or ""
    told = choice["pilothouse"]
    rules = tuple(f"{each['policy']}/{each['rule']}: {each['result']}" for each in told["rules"])
    return Seen(said.strip(), told["action"], told.get("scores", {}), rules, told["steered"])


def title_of(stop: Stop, seen: Seen) -> str:
    """Return what stands over a stop: a guarded one is called what came of it."""
    missed = stop.is_guarded and seen is not NOT_LOADED and seen.action != "block"
    return f"not {stop.title}" if missed else stop.title


def action_of(stop: Stop, seen: Seen) -> str:
    """Return the action; of a guarded stop, also that the policy did not block.

    Loudly where the stop's own prompt should have been blocked.
    """
    if not stop.is_guarded or seen is NOT_LOADED or seen.action == "block":
        return seen.action
    return f"{seen.action} ({'not' if stop.prompt is None else 'NOT'} blocked)"


def _name(url: str, models: list[str], *, is_world: bool) -> str:
    """Return which of the two models is served there."""
    found = [each for each in (SMOL_NAME, WORLD_NAME) if each in models]
    wanted = [WORLD_NAME] if is_world else [SMOL_NAME, WORLD_NAME]
    if not found or found[0] not in wanted:
        raise ConfigError(
            where=url,
            got=f"a server of {', '.join(models)[:200]}",
            want=f"one of {' or '.join(wanted)}",
            fix="stop it, or name another --port",
        )
    return found[0]


@contextmanager
def _server(url: str, host: str, port: int, *, is_world: bool) -> Iterator[None]:
    """Find the demo at this address, or start one, which then ends with the block.

    Raises:
        ConfigError: no demo comes up there.
    """
    if wait_until_ready(url, seconds=1):
        yield
        return
    if is_held(port):
        sys.stderr.write(f"A demo is starting on {url}: waiting for it.\n")
        if not _becomes_ready(url, port):
            raise ConfigError(f"{url}: the demo that was starting there has not become ready")
        yield
        return
    start = "from pilothouse.cli import main; main()"
    command = [sys.executable, "-c", start, "demo", "--quiet", "--host", host, "--port", str(port)]
    command += ["--world"] if is_world else []
    process = subprocess.Popen(command, start_new_session=True)
    try:
        if not _comes_up(process, url):
            raise ConfigError(f"the demo server on {url} did not start; see its output above")
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=STOP_SECONDS)


def _becomes_ready(url: str, port: int) -> bool:
    """Wait for the demo that is starting there; False when it ends or the time is up."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        # In this order: what ends right after it was ready has been there.
        was_held = is_held(port)
        if wait_until_ready(url, seconds=1):
            return True
        if not was_held:
            return False
    return False


def _comes_up(process: subprocess.Popen[bytes], url: str) -> bool:
    while process.poll() is None:
        if wait_until_ready(url, seconds=2):
            return True
    return False


def _print(tour: Tour, seen: list[tuple[Stop, Seen]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_lines=True, title="One model, one server: live answers")
    for title in ("", *(title_of(stop, answer) for stop, answer in seen)):
        table.add_column(title, overflow="fold")

    def row(name: str, *cells: str) -> None:
        # A model may write what rich would take for a colour.
        table.add_row(name, *(escape(each) for each in cells))

    row("model", *(stop.model for stop, _ in seen))
    row("prompt", *(tour.asked(stop) for stop, _ in seen))
    row("answer", *(answer.text for _, answer in seen))
    row("action", *(action_of(stop, answer) for stop, answer in seen))
    row("steered", *(_tokens(answer) for _, answer in seen))
    row("rules", *("\n".join(answer.rules) or "-" for _, answer in seen))
    row("scores", *(_scores(answer) for _, answer in seen))
    Console().print(table)


def _scores(seen: Seen) -> str:
    return "\n".join(f"{name} {value:.3f}" for name, value in seen.scores.items()) or "-"


def _tokens(seen: Seen) -> str:
    return "\n".join(f"{name}: {count} tokens" for name, count in seen.steered.items()) or "-"
