"""What a running server writes down: what runs, once; nothing of the plan; no client's line."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pilothouse.cli.launch import config_of, plan_for
from pilothouse.engine.plan.plan import Plan
from tests.support.engines.plan_text import numbers_in
from tests.support.servers.server_process import ServerProcess
from tests.support.servers.tiny_deployment import SERVED_NAME

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

FORGED = "FORGED INFO all is well"
CHAT = {"model": SERVED_NAME, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
LINE = re.compile(r"^\(APIServer pid=\d+\) INFO \d\d-\d\d [\d:]+ \[start_report.py:\d+\] ")


@pytest.fixture(scope="module")
def plan(tiny_house: Path) -> Plan:
    return plan_for(config_of(tiny_house), Namespace(model=str(tiny_house.parent / "model")))


def test_the_start_says_once_what_runs_in_vllms_format(
    small_server: ServerProcess, plan: Plan
) -> None:
    lines = small_server.log.read_text(errors="replace").replace("\r", "").split("\n")
    told = [LINE.sub("", line) for line in lines if LINE.search(line)]
    assert re.fullmatch(rf"Pilothouse \S+ runs revision {plan.revision}", told[0])
    starts = [line.removeprefix("  | ").partition(":")[0] for line in told[1:]]
    assert starts == [
        "model",
        "vectors",
        "SAEs",
        "probes",
        "profiles",
        "policies enforced",
        "policies in shadow",
        "taps",
        "vLLM",
        "grants to every client",
        "reload, status and catalog are for callers on this machine",
        "doors governed",
        "doors open that run no model",
        "doors denied",
        *["door left open, " + each["door"] for each in doors_of_status(small_server)],
    ]
    text = "\n".join(told)
    assert "  | vectors: 1 (nudge)" in text and "  | policies in shadow: 1 (watch)" in text
    assert "/v1/chat/completions, /v1/completions" in text
    assert re.search(r"doors denied: \d+; that would run the model: \d+ \(.*/v1/messages", text)
    assert re.search(r"tables \d+\.\d MiB of \d+ for \d+ programs", text)


def doors_of_status(server: ServerProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{server.url}/pilothouse/v1/status").json()[
        "open_doors"
    ]
    return found


def test_the_doors_that_stay_open_are_those_of_the_server_as_it_runs(
    small_server: ServerProcess,
) -> None:
    told = {each["door"]: each for each in doors_of_status(small_server)}
    # Grants and profiles of this server; its model has a chat template and takes text alone.
    assert {"client-scores", "client-steering", "profile", "own-words", "metrics"} <= told.keys()
    assert not {"no-template", "pictures", "adapters", "gate-allow", "nobody"} & told.keys()
    assert "prompt-refusal/rule" in told["own-words"]["rules"]


def test_nothing_of_the_plan_but_its_digest_is_in_the_log(
    small_server: ServerProcess, plan: Plan
) -> None:
    said = small_server.log.read_text(errors="replace")
    assert "'additional_config': {'pilothouse': 'pilothouse-plan-sha256:" in said
    assert numbers_in(said, plan.tensors) == []
    assert "small:steers" not in said.partition("runs revision")[0]


def test_nothing_of_the_plan_is_in_the_list_of_processes(
    small_server: ServerProcess, plan: Plan
) -> None:
    first = psutil.Process(small_server.pid)
    family = [first, *first.children(recursive=True)]
    assert len(family) > 1
    for process in family:
        shown = [process.name(), *process.cmdline()]
        shown += [f"{name}={value}" for name, value in process.environ().items()]
        assert numbers_in("\n".join(shown), plan.tensors) == []


@pytest.mark.parametrize("end", ["\n", "\r\n", "\x1b[2K\r", "\x85", "\u2028"])
def test_a_client_writes_no_line_of_the_log(small_server: ServerProcess, end: str) -> None:
    before = len(small_server.log.read_bytes())
    text = f"a{end}{FORGED}"
    raw = text.encode("latin-1", "replace").replace(b"\n", b"").replace(b"\r", b"")
    url = small_server.url
    prompt = {"prompt": "a", "request_id": text}
    answers = {
        "field": httpx.post(f"{url}/v1/chat/completions", json=CHAT | {"request_id": text}),
        "completions": httpx.post(f"{url}/v1/completions", json=prompt),
        "path": httpx.get(f"{url}/" + "".join(f"%{byte:02x}" for byte in text.encode())),
        "query": httpx.get(f"{url}/health", params={"a": text}),
        "model": httpx.post(f"{url}/v1/chat/completions", json=CHAT | {"model": text}),
    }
    assert [answers[name].status_code for name in ("field", "completions")] == [400, 400]
    assert answers["field"].json()["error"]["param"] == "request_id"
    if end not in ("\n", "\r\n", "\u2028"):
        _bytes_in_headers(url, raw)
    said = small_server.log.read_bytes()[before:].decode()
    assert "GET" in said
    for line in re.split(r"[\n\x85\u2028]", said):
        assert not line.lstrip("\r").startswith(FORGED)
        assert line.strip("\r").isprintable(), ascii(line)


def _bytes_in_headers(url: str, raw: bytes) -> None:
    """Headers that h11 lets through and httptools may not."""
    named = httpx.post(f"{url}/v1/chat/completions", json=CHAT, headers=[(b"x-request-id", raw)])
    assert named.status_code == 400
    httpx.get(f"{url}/health", headers=[(b"x-forwarded-for", raw)])


def test_a_request_id_that_is_fine_comes_back(small_server: ServerProcess) -> None:
    answer = httpx.post(
        f"{small_server.url}/v1/chat/completions",
        json=CHAT | {"request_id": "order 7"},
        timeout=120,
    )
    assert answer.json()["id"] == "chatcmpl-order 7"
