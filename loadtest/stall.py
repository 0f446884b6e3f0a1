"""How long does the worst request hold up others? `python loadtest/stall.py` says for each kind.

A neighbour sends one-token chat requests at a steady rate to a `pilothouse demo --world` that
this starts (or to a server on this machine that `--url` names). For each kind of request, at the
bound that the limits set, the longest wait while it is served is compared with the longest wait in
windows without it. Medians over repetitions, with the least and the most; memory before and after
all. `--plain REPORT` sends what another report was made with to plain vLLM with the demo's model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil

from environment import environment
from pilothouse.demo.served import world
from server import Server, plain_server
from stall_kinds import CHAT, Attack, Target, attacks

GOAL_MS = 100.0
GOAL_MEMORY = 0.05
LEAD_S, TAIL_S, IDLE_S = 0.3, 0.2, 1.0
TIMEOUT_S = 600.0
KEPT_ALIVE_S = 2.0
"""Less than the 5 s after which the server closes a quiet connection: a client that keeps one for
just as long sends into a closing one now and then."""
START = "from pilothouse.cli import main; main()"
DEMO = (sys.executable, "-c", START, "demo", "--world", "--quiet")
JSON = {"content-type": "application/json"}

Work = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Row:
    """One kind: what was answered, and the neighbour's longest wait beside it."""

    kind: str
    bound: str
    body_kib: float
    status: int
    answer_ms: float
    wait_ms: float
    over_ms: float
    least_ms: float
    """Of the repetitions, over the wait alone."""
    most_ms: float

    @property
    def line(self) -> str:
        """As a row of a Markdown table."""
        bound = f"`{self.bound}`" if self.bound else "the context"
        return (
            f"| {self.kind} | {bound} | {self.body_kib:.1f} | {self.status} "
            f"| {self.answer_ms:.0f} | {self.wait_ms:.0f} "
            f"| {self.over_ms:+.0f} [{self.least_ms:+.0f}, {self.most_ms:+.0f}] |"
        )


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One-token chats at a steady rate."""

    client: httpx.AsyncClient
    model: str
    every_s: float

    async def beside(self, work: Work) -> tuple[float, Any]:
        """The longest wait in seconds while `work` is done, and what that gave."""
        waits: list[float] = []
        over = asyncio.Event()
        running = asyncio.create_task(self._ask(waits, over))
        await asyncio.sleep(LEAD_S)
        done = await work()
        await asyncio.sleep(TAIL_S)
        over.set()
        await running
        return max(waits), done

    async def _ask(self, waits: list[float], over: asyncio.Event) -> None:
        asked = []
        while not over.is_set():
            asked.append(asyncio.create_task(self._one()))
            await asyncio.sleep(self.every_s)
        waits += await asyncio.gather(*asked)

    async def _one(self) -> float:
        messages = [{"role": "user", "content": "how is the tide"}]
        body = {"model": self.model, "messages": messages, "max_tokens": 1}
        began = time.perf_counter()
        (await self.client.post(CHAT, json=body)).raise_for_status()
        return time.perf_counter() - began


async def told(client: httpx.AsyncClient, like: dict[str, Any] | None) -> Target:
    """What the server says of itself; the limits of another report where it has none."""
    served = (await client.get("/v1/models")).json()["data"][0]
    if like is not None:
        return Target(served["id"], served["max_model_len"], like["limits"], None)
    status = (await client.get("/pilothouse/v1/status")).json()
    catalog = (await client.get("/pilothouse/v1/catalogue")).json()
    vectors = [name for name, each in catalog["vectors"].items() if each["form"] == "vector"]
    limits = status["limits"] | {"max_programs": catalog["limits"]["max_programs"]}
    vector = vectors[0] if vectors and status["client_steering"] else None
    return Target(served["id"], served["max_model_len"], limits, vector)


async def measured(
    client: httpx.AsyncClient, found: Sequence[Attack], neighbour: Neighbour, repeats: int
) -> list[Row]:
    """A row for each kind; the windows without it are taken in turn with those beside it."""
    rows = []
    for attack in found:
        alone, beside, took = [], [], []
        for _ in range(repeats):
            alone.append((await neighbour.beside(lambda: asyncio.sleep(IDLE_S)))[0])

            async def attacked(attack: Attack = attack) -> tuple[int, float]:
                began = time.perf_counter()
                answer = await client.post(attack.path, content=attack.salted(), headers=JSON)
                return answer.status_code, time.perf_counter() - began

            wait, (status, seconds) = await neighbour.beside(attacked)
            beside.append(wait)
            took.append(seconds)
        over = [each - median(alone) for each in beside]
        row = Row(
            attack.kind,
            attack.bound,
            round(len(attack.body) / 1024, 1),
            status,
            *(
                round(each * 1000, 1)
                for each in (median(took), median(beside), median(over), min(over), max(over))
            ),
        )
        rows.append(row)
        print(row.line, flush=True)
    return rows


async def run(
    url: str, pid: int | None, asked: argparse.Namespace, like: dict[str, Any] | None
) -> dict[str, Any]:
    """Measure a running server."""
    repeats, every_s = asked.repeats, asked.every_s
    async with httpx.AsyncClient(
        base_url=url,
        timeout=TIMEOUT_S,
        limits=httpx.Limits(max_connections=None, keepalive_expiry=KEPT_ALIVE_S),
    ) as client:
        target = await told(client, like)
        neighbour = Neighbour(client, target.model, every_s)
        found = [each for each in attacks(target) if any(word in each.kind for word in asked.only)]
        for _ in range(3):
            await neighbour.beside(lambda: asyncio.sleep(IDLE_S))
        for attack in found:  # once unmeasured: what is loaded at first use stays
            await client.post(attack.path, content=attack.salted(), headers=JSON)
        before = resident_mib(pid)
        print(
            "| kind | at the bound of | body KiB | status | its own time ms | neighbour ms "
            "| over alone ms [least, most] |\n| --- | --- | ---: | ---: | ---: | ---: | ---: |"
        )
        rows = await measured(client, found, neighbour, repeats)
        await asyncio.sleep(2.0)
        after = resident_mib(pid)
    return {
        "model": target.model,
        "limits": target.limits,
        "repeats": repeats,
        "neighbour_every_s": every_s,
        "environment": environment(),
        "memory_mib": {"before": before, "after": after},
        "rows": [asdict(row) for row in rows],
    }


def resident_mib(pid: int | None) -> float | None:
    """Memory of a server's processes."""
    if pid is None:
        return None
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    return round(sum(each.memory_info().rss for each in family) / 2**20, 1)


def good(report: dict[str, Any]) -> bool:
    """Every wait within the goal, and memory back."""
    memory = report["memory_mib"]
    back = not memory["before"] or memory["after"] <= (1 + GOAL_MEMORY) * memory["before"]
    return back and all(row["over_ms"] <= GOAL_MS for row in report["rows"])


def _server(port: int, *, plain: bool) -> Server:
    log = Path(tempfile.mkdtemp(prefix="pilothouse-stall-")) / "server.txt"
    if not plain:
        return Server("pilothouse demo", [*DEMO, "--port", str(port)], port, log)
    like = world()
    flags = [*like.flags, "--served-model-name", like.name]
    server = plain_server(like.model, port, flags, log)
    server.environment |= like.environment
    return server


def main() -> int:
    """0 where the goal is met, 1 where it is not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running server; by default a demo is started")
    parser.add_argument("--pid", type=int, help="of the server at --url, for its memory")
    parser.add_argument("--port", type=int, default=8123, help="of the demo that is started")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--every-s", type=float, default=0.05, help="between a neighbour's chats")
    parser.add_argument("--only", nargs="+", default=[""], help="kinds that contain one of these")
    parser.add_argument("--plain", type=Path, metavar="REPORT", help="plain vLLM, limits of REPORT")
    parser.add_argument("--json", type=Path, help="write the report there")
    asked = parser.parse_args()
    like = json.loads(asked.plain.read_text(encoding="utf-8")) if asked.plain else None
    server = None if asked.url else _server(asked.port, plain=like is not None)
    try:
        if server is not None:
            server.start()
        url, pid = (server.url, server.pid) if server is not None else (asked.url, asked.pid)
        report = asyncio.run(run(url, pid, asked, like))
    finally:
        if server is not None:
            server.stop()
    memory = report["memory_mib"]
    print(f"\nmemory: {memory['before']} MiB before, {memory['after']} MiB after")
    if asked.json:
        asked.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    late = [row["kind"] for row in report["rows"] if row["over_ms"] > GOAL_MS]
    print("over the goal: " + (", ".join(late) or "none"))
    return 0 if good(report) else 1


if __name__ == "__main__":
    sys.exit(main())
