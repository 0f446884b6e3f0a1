"""One file and one row make an endpoint: the toy of docs/contributing/adding-an-endpoint.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

import pilothouse.server.endpoints as room
from pilothouse.policy.endpoint_names import ENDPOINTS as NAMES
from pilothouse.policy.endpoint_names import PATHS, EndpointName
from pilothouse.server.endpoints import registry
from pilothouse.server.endpoints.base import Answer
from pilothouse.server.response.exchange import Exchange
from tests.support.servers.app_parts import admission, caller, entry_with, record, settler
from tests.support.servers.tiny_deployment import MESSAGE, SERVED_NAME

PAGE = Path(__file__).parents[3] / "docs" / "contributing" / "adding-an-endpoint.md"
[TOY] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_every_name_has_a_path_and_a_file() -> None:
    assert set(get_args(EndpointName)) == set(PATHS) == set(NAMES) == set(registry.ENDPOINTS)
    for name, endpoint in registry.ENDPOINTS.items():
        assert (endpoint.name, endpoint.path) == (name, PATHS[name])
        assert registry.BY_PATH[endpoint.path] is endpoint


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The toy endpoint, loaded as any."""
    (tmp_path / "echoes.py").write_text(TOY)
    monkeypatch.setattr(room, "__path__", [*room.__path__, str(tmp_path)])
    monkeypatch.setitem(PATHS, "echoes", "/v1/echoes")  # type: ignore[arg-type, misc]
    name: Any = "echoes"
    return registry.load(name)


@pytest.mark.parametrize(("policy", "said"), [("final-refusal", MESSAGE), ("plain", "the tide")])
async def test_an_endpoint_of_one_file_is_governed(toy: Any, policy: str, said: str) -> None:
    body = {"model": f"{SERVED_NAME}:{policy}", "say": "the tide"}
    admitted = admission().admit(body, toy.name, caller(), toy.read)
    entry = entry_with(((0, 0), record(always__output=0.99)))
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    exchange = Exchange(toy, Answer(admitted, entry, settler()), send)
    kind = [(b"content-type", b"application/json")]
    await exchange.send({"type": "http.response.start", "status": 200, "headers": kind})
    raw = json.dumps({"echo": "the tide"}).encode()
    await exchange.send({"type": "http.response.body", "body": raw})
    assert json.loads(sent[1]["body"])["echo"] == said
    assert toy.path == "/v1/echoes"


@pytest.mark.parametrize(("model_type", "closed"), [("gpt_oss", True), ("llama", False)])
def test_an_endpoint_can_be_closed_for_a_model(model_type: str, closed: bool) -> None:
    from pilothouse.server.app import unserved
    from pilothouse.server.routes import RouteTable

    config = SimpleNamespace(hf_config=SimpleNamespace(model_type=model_type))
    table = RouteTable((), unserved(config))
    kind = table.judge("POST", "/v1/responses").kind
    assert kind == ("denied" if closed else "governed")
    assert table.judge("POST", "/v1/chat/completions").kind == "governed"
