"""Servers that listen elsewhere than on loopback: every IPv6 address, and a Unix socket."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.support.servers.nginx import nginx_before
from tests.support.servers.server_process import (
    COMMAND,
    ENVIRONMENT,
    START_SECONDS,
    TINY_FLAGS,
    ServerProcess,
    serve_process,
    stop,
)
from tests.support.servers.tiny_deployment import (
    MESSAGE,
    PROXY_ADDRESS,
    SERVED_NAME,
    TENANT,
    TENANT_HEADER,
    make_tiny_house,
)

pytestmark = [pytest.mark.full, pytest.mark.server, pytest.mark.timeout(900)]

KEY = {"authorization": "Bearer secret"}
BODY = {
    "model": SERVED_NAME,
    "messages": [{"role": "user", "content": "the tide"}],
    "max_tokens": 2,
}


def reload(*where: str, key: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"VLLM_API_KEY": key} if key else {})
    return subprocess.run(
        [*COMMAND, "reload", *where], capture_output=True, text=True, env=environment, timeout=300
    )


@pytest.fixture(scope="module")
def dual_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Two API processes under `--host ::`, with a key."""
    folder = tmp_path_factory.mktemp("dual")
    config = make_tiny_house(folder)
    flags = ("--host", "::", "--api-key", "secret", "--api-server-count", "2")
    with serve_process(config, SERVED_NAME, folder / "server.txt", *flags) as server:
        yield server


def test_an_ipv4_proxy_is_itself_to_every_process_of_a_dual_stack_server(
    dual_stack: ServerProcess, tmp_path: Path
) -> None:
    lines = (f"proxy_bind {PROXY_ADDRESS};", f"proxy_set_header {TENANT_HEADER} {TENANT};")
    with nginx_before(dual_stack.url, tmp_path / "nginx", lines) as url:
        for _ in range(10):  # a connection each, so that both processes get some
            answer = httpx.post(f"{url}/v1/chat/completions", json=BODY, headers=KEY, timeout=60)
            assert answer.json()["choices"][0]["message"]["refusal"] == MESSAGE
    direct = httpx.post(
        f"{dual_stack.url}/v1/chat/completions",
        json=BODY,
        headers=KEY | {TENANT_HEADER: TENANT},
        timeout=60,
    )
    assert direct.json()["choices"][0]["message"]["content"]


def test_a_reload_over_ipv4_and_ipv6_takes_the_key_there(dual_stack: ServerProcess) -> None:
    for url in (dual_stack.url, f"http://[::1]:{dual_stack.port}"):
        assert reload("--url", url, key="secret").returncode == 0
        refused = reload("--url", url)
        assert refused.returncode != 0 and "API key" in refused.stderr


def test_the_start_says_whom_the_operators_routes_answer(dual_stack: ServerProcess) -> None:
    log = dual_stack.log.read_text(errors="replace")
    assert log.count("reload, status and catalog are for callers with an API key") == 1


def test_a_server_on_a_unix_socket_knows_its_proxy_and_its_operator(tmp_path: Path) -> None:
    config = make_tiny_house(tmp_path)
    raw = yaml.safe_load(config.read_text())
    raw["auth"]["trusted_proxies"]["cidrs"] = []
    config.write_text(yaml.safe_dump(raw))
    path, log = str(tmp_path / "socket"), tmp_path / "server.txt"
    words = ["serve", str(tmp_path / "model"), f"--pilothouse-config={config}", "--uds", path]
    words += ["--served-model-name", SERVED_NAME, *TINY_FLAGS]
    environment = {**os.environ, **ENVIRONMENT}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*COMMAND, *words], stdout=sink, stderr=sink, env=environment, start_new_session=True
        )
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=path), timeout=60) as client:
            _wait(process, client, log)
            url = "http://localhost/pilothouse/v1/status"
            assert client.get(url).status_code == 200
            assert client.get(url, headers={"x-forwarded-for": "::1"}).status_code == 403
            assert reload("--uds", path).returncode == 0
            raw["auth"]["trusted_proxies"]["cidrs"] = ["10.0.0.0/8"]
            config.write_text(yaml.safe_dump(raw))
            refused = reload("--uds", path)
            assert refused.returncode != 0 and "'unix'" in refused.stderr
            raw["auth"]["trusted_proxies"]["cidrs"] = ["unix"]
            config.write_text(yaml.safe_dump(raw))
            assert reload("--uds", path).returncode == 0
            named = client.post(
                "http://localhost/v1/chat/completions", json=BODY, headers={TENANT_HEADER: TENANT}
            )
            assert named.json()["choices"][0]["message"]["refusal"] == MESSAGE
            closed = client.get(url)
            assert closed.status_code == 403 and "trusted_proxies" in closed.text
            process.send_signal(signal.SIGHUP)  # what is left to the operator then
            time.sleep(2)
            assert client.get("http://localhost/health").status_code == 200
    finally:
        stop(process)


def _wait(process: subprocess.Popen[bytes], client: httpx.Client, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get("http://localhost/pilothouse/v1/ready").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise RuntimeError(log.read_text(errors="replace")[-6000:])
