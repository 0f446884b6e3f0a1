"""A real Prometheus scrapes the demo server; every panel and every variable then has data."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
import yaml

from tests.support.promql import (
    DEPLOY,
    RULES,
    filled,
    metric_names,
    panel_queries,
    rules,
    variable_series,
)

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.server,
    pytest.mark.timeout(600),
]
CHECKOUT = DEPLOY.parent
WINDOW_SECONDS = 60
SCRAPE_SECONDS = 1
WORLD_SEED = 20_611
KINDS = ("known", "unknown", "benign", "forbidden", "jailbroken", "wrapped_benign")


class Server(Protocol):
    """A running demo."""

    url: str


class Database:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=30)

    def ask(self, path: str, **params: str) -> Any:
        answer = self.client.get(f"/api/v1/{path}", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def values(self, expression: str) -> list[float]:
        """Return the finite values of an instant query."""
        found = [float(each["value"][1]) for each in self.ask("query", query=expression)["result"]]
        return [value for value in found if math.isfinite(value)]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def prompts(folder: Path) -> list[str]:
    """Return fresh prompts of the kinds that make every sort of decision."""
    path = folder / "prompts.jsonl"
    options = ["--seed", str(WORLD_SEED), "--count", "3", "--out", str(path)]
    command = [sys.executable, "examples/demo/world.py", *options]
    subprocess.run(command, cwd=CHECKOUT, check=True, timeout=120)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    chosen = [row["prompt"] for row in rows if row["kind"] in KINDS]
    assert chosen
    return chosen


def send_traffic(url: str, texts: list[str]) -> None:
    """Chat and completions, streamed and not, plain and steered."""
    with httpx.Client(base_url=url, timeout=120) as client:
        for index, text in enumerate(texts):
            body = {
                "model": "demo:cheerful" if index % 3 == 0 else "demo",
                "messages": [{"role": "user", "content": text}],
                "max_tokens": 24,
                "stream": index % 2 == 0,
            }
            answer = client.post("/v1/chat/completions", json=body)
            assert answer.status_code in (200, 400), answer.text
        body = {"model": "demo", "prompt": texts[0], "max_tokens": 8}
        assert client.post("/v1/completions", json=body).status_code in (200, 400)


@pytest.fixture(scope="module")
def database(
    demo_server: Server, prometheus: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    """Prometheus with our own config, aimed at the demo and scraping once a second."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {
        "scrape_interval": f"{SCRAPE_SECONDS}s",
        "evaluation_interval": f"{SCRAPE_SECONDS}s",
    }
    config["rule_files"] = [str(RULES)]
    target = demo_server.url.removeprefix("http://").rstrip("/")
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    with (folder / "prometheus.log").open("w") as log:
        options = [
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        process = subprocess.Popen([prometheus, *options], stdout=log, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_ready(url, process, folder / "prometheus.log")
        texts = prompts(folder)
        database = Database(url)
        send_traffic(demo_server.url, texts)
        wait_scraped(database)
        send_traffic(demo_server.url, texts)
        time.sleep(3 * SCRAPE_SECONDS)
        yield database
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(120):
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{url}/-/ready", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.25)
    pytest.fail(f"Prometheus is not ready:\n{log.read_text()}")


def wait_scraped(database: Database) -> None:
    """Wait until the first round stands in the database: increases are seen from there on."""
    for _ in range(60):
        if database.values("sum(pilothouse_decisions_total) > 0"):
            time.sleep(2 * SCRAPE_SECONDS)
            return
        time.sleep(0.5)
    pytest.fail(f"no decision was scraped; targets: {database.ask('targets')}")


@pytest.mark.parametrize("query", list(panel_queries()), ids=lambda query: query.where)
def test_every_panel_has_data(database: Database, query: Any) -> None:
    expression = filled(query.expression, seconds=WINDOW_SECONDS)
    assert database.values(expression), expression


@pytest.mark.parametrize(("name", "metric", "label"), list(variable_series()))
def test_every_variable_has_choices(database: Database, name: str, metric: str, label: str) -> None:
    assert database.ask(f"label/{label}/values", **{"match[]": metric}), name


def test_the_server_is_scraped_without_error(database: Database) -> None:
    (target,) = database.ask("targets")["activeTargets"]
    assert target["health"] == "up", target["lastError"]


def test_every_rule_is_evaluated_without_error(database: Database) -> None:
    groups = database.ask("rules")["groups"]
    loaded = [rule for group in groups for rule in group["rules"]]
    assert len(loaded) == len(rules())
    assert [rule["name"] for rule in loaded if rule["health"] != "ok"] == []


def test_every_metric_the_rules_ask_for_is_exported(database: Database) -> None:
    wanted = {name for rule in rules() for name in metric_names(rule["expr"])}
    absent = {name for name in wanted if not database.values(f"count({name})")}
    assert absent == set()


def test_jailbreaks_show_as_blocked(database: Database) -> None:
    assert sum(database.values('sum(pilothouse_decisions_total{result="blocked"})')) > 0
