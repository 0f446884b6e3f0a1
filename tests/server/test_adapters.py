"""A server with a LoRA adapter: asked for by its name, governed and steered like the base model."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.models.lora_adapters import make_adapter
from tests.support.servers.server_process import ServerProcess, serve_process
from tests.support.servers.tiny_deployment import (
    PLAIN_PROFILE,
    SERVED_NAME,
    STRONG,
    make_tiny_house,
)

pytestmark = [pytest.mark.full, pytest.mark.server, pytest.mark.timeout(900)]

TUNED = "tuned"
BODY = {"prompt": "the harbour opens at dawn", "max_tokens": 12, "temperature": 0.0}
STEER = {"pilothouse": {"steer": [{"vector": "nudge", "scale": STRONG}]}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("adapters")
    config = make_tiny_house(folder)
    adapter, _ = make_adapter(folder / "model", folder / "lora", seed=4, size=2.0)
    flags = ("--enable-lora", "--lora-modules", f"{TUNED}={adapter}")
    with serve_process(config, SERVED_NAME, folder / "server.txt", *flags) as running:
        yield running


def ask(server: ServerProcess, model: str, **more: object) -> dict:
    answer = httpx.post(
        f"{server.url}/v1/completions", json=BODY | {"model": model} | more, timeout=60
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_an_adapter_is_a_model_name_that_the_gate_lets_through(server: ServerProcess) -> None:
    listed = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert {TUNED, SERVED_NAME, PLAIN_PROFILE} <= {each["id"] for each in listed}
    base, tuned = ask(server, SERVED_NAME), ask(server, TUNED)
    assert tuned["model"] == TUNED
    assert tuned["choices"][0]["text"] != base["choices"][0]["text"]
    assert tuned["choices"][0]["pilothouse"]["action"] == "allow"
    assert server.metric("pilothouse_requests_total", model_name=TUNED) >= 1


def test_an_adapters_answer_is_steered(server: ServerProcess) -> None:
    tuned, steered = ask(server, TUNED), ask(server, TUNED, **STEER)
    assert steered["choices"][0]["text"] != tuned["choices"][0]["text"]
    assert steered["choices"][0]["pilothouse"]["steered"]
    assert ask(server, TUNED)["choices"][0]["text"] == tuned["choices"][0]["text"]
    base = ask(server, SERVED_NAME, **STEER)
    assert base["choices"][0]["text"] != steered["choices"][0]["text"]
