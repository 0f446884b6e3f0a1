"""`pilothouse demo`: the packaged model, probes and policies on this machine alone."""

from __future__ import annotations

import ipaddress
import os
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from pilothouse.cli.prompts import DemoPrompts, load_prompts
from pilothouse.config import Auth, PilothouseConfig
from pilothouse.errors import ConfigError
from pilothouse.library import library_path
from pilothouse.progress import waiting

SERVED_NAME = "demo"
STYLED = "demo:cheerful"
DEFAULT_PORT = 8000
START_SECONDS = 600

FLAGS = (
    "--dtype", "float32", "--enforce-eager", "--max-num-seqs", "32", "--disable-uvicorn-access-log",
    "--uvicorn-log-level", "warning", "--distributed-executor-backend", "uni",
    "--no-use-tqdm-on-load",
)  # fmt: skip
"""Float32 because CPUs without bf16 arithmetic emulate it; eager because compiling takes longer
than the demo lasts; one process for engine and worker because each costs memory and an import."""
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore",
    "VLLM_NO_USAGE_STATS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


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
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no prompts to paste.")] = False,
) -> None:
    """Serve the packaged demo model with its probes and the baseline policies, until Ctrl-C."""
    refuse_remote(host)
    if tour:
        from pilothouse.cli.tour import show

        show(host, port)
    else:
        serve_demo(host, port, quiet=quiet)


def demo_config() -> PilothouseConfig:
    """The demo's configuration, with the grants that only a loopback server may give."""
    from pilothouse.config import load_config

    config = load_config(library_path("probes/demo") / "pilothouse.yaml")
    return config.model_copy(update={"auth": Auth(client_steering=True, client_scores=True)})


def model_folder() -> Path:
    """The demo model.

    Raises:
        ConfigError: the library has none.
    """
    folder = library_path("examples/demo") / "model"
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder}: holds no model; reinstall pilothouse")
    return folder


def serve_demo(host: str, port: int, *, quiet: bool) -> None:
    """Hand over to vLLM, and say when it is ready."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    prompts = load_prompts()
    model = model_folder()
    config = demo_config()
    _tell(f"Starting the demo model on http://{host}:{port}; this takes about a minute.")
    from pilothouse.cli.launch import plan_for, serve, vllm_parser

    command, parser = vllm_parser()
    where = ["--host", host, "--port", str(port), "--served-model-name", SERVED_NAME]
    args = parser.parse_args(["serve", str(model), *where, *FLAGS])
    args.model = args.model_tag
    url = f"http://{host}:{port}"
    watcher = threading.Thread(target=_greet, args=(url, prompts, quiet), daemon=True)
    watcher.start()
    serve(command, args, plan_for(config, args, demo=True))


def refuse_remote(host: str) -> None:
    """The demo lets any caller on this machine steer, so no other machine may call it.

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
            f"demo --host: got {host!r}, want 127.0.0.1: whoever reaches the demo may steer it and "
            "see its scores. To serve other machines use `pilothouse serve` with a pilothouse.yaml "
            "of your own"
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


def greeting(url: str, prompts: DemoPrompts) -> str:
    """What is printed once the server is ready: prompts to paste."""
    return "\n".join(
        [
            f"Ready on {url} (this machine only; Ctrl-C stops it). Paste into another terminal:",
            "",
            "# an answer, its scores beside it",
            _curl(url, SERVED_NAME, prompts.known),
            "",
            "# the same, steered inside the forward pass: a profile is a model name",
            _curl(url, STYLED, prompts.known),
            "",
            "# a disguised request for something forbidden: declined before the first token",
            _curl(url, SERVED_NAME, prompts.blocked),
            "",
            "# with the openai client",
            f"python - <<'EOF'\n{_client(url, prompts)}\nEOF",
            "",
            "pilothouse demo --tour shows plain, steered and blocked side by side.",
        ]
    )


def _greet(url: str, prompts: DemoPrompts, quiet: bool) -> None:
    with waiting(f"starting the demo on {url}"):
        is_ready = wait_until_ready(url)
    if is_ready and not quiet:
        _tell(greeting(url, prompts))


def _curl(url: str, model: str, prompt: str) -> str:
    import json
    import shlex

    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
    return (
        f"curl -s {url}/v1/chat/completions -H 'content-type: application/json' \\\n"
        f"  -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    )


def _client(url: str, prompts: DemoPrompts) -> str:
    return (
        "from openai import OpenAI\n"
        f"client = OpenAI(base_url={url + '/v1'!r}, api_key='none')\n"
        "answer = client.chat.completions.create(\n"
        f"    model={SERVED_NAME!r}, temperature=0,\n"
        f"    messages=[{{'role': 'user', 'content': {prompts.known!r}}}],\n"
        "    extra_body={'pilothouse': {'steer': [{'vector': 'cheerful', 'scale': 0.4, "
        "'unit': 'residual'}]}},\n"
        ")\n"
        "print(answer.choices[0].message.content, answer.choices[0].model_extra['pilothouse'])"
    )


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
