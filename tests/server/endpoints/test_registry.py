"""One file and one row make an endpoint: a toy one, added as CONTRIBUTING.md says, is governed."""

from __future__ import annotations

import json
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

TOY = '''
"""/v1/echoes: one text in, one text out, and no choices."""

from pilothouse.policy.endpoint_names import PATHS
from pilothouse.server.endpoints.base import Answer, Endpoint, Spoken
from pilothouse.server.request_schema import RequestFields


class Echoes(Endpoint):
    """A toy."""

    name = "echoes"

    def read(self, body):
        return RequestFields(model=body["model"], prompts=[body["say"]])

    def shortest(self, body):
        return body

    def key(self, index, admitted):
        return (0, 0)

    def as_error(self, ending, admitted):
        return False

    def spoken(self, part):
        yield Spoken(0, part["echo"], True)

    def rewrite(self, body, answer):
        settlement = answer.settle((0, 0))
        if settlement.ending is not None:
            body["echo"] = settlement.ending.message
        body["pilothouse"] = answer.mark | settlement.visible
        return [settlement.deed]

    def stream(self, answer):
        return None


ENDPOINT = Echoes()
'''


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
