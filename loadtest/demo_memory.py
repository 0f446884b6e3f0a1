"""How much memory does the demo take at most, and is that what it asks for?

    python loadtest/demo_memory.py --world

It starts `pilothouse demo`, fills every seat with prompts of nearly the whole context until the KV
cache has been written once over, and prints the peak of what its processes took together. The exit
status is 1 where that is more than the demo asks for before it starts.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmodel import english_words
from interrupted import Interrupted, end_servers_when_interrupted, say
from peak_memory import PeakMemory
from pilothouse.cli.prompts import load_prompts
from pilothouse.demo.served import SMOL_GIB, WORLD_GIB
from pilothouse.progress import progress
from server import Server, ServerError

GOOD, FINDING, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
START = "from pilothouse.cli import main; main()"
SEATS = {True: 32, False: 8}
ANSWER_TOKENS = 8
SHORT_WORDS = 50
TIMEOUT_S = 900.0
FILLED = 0.9
"""Of the context: words are not all of one length."""
WRITTEN_OVER = 1.1


def main(words: Sequence[str]) -> int:
    """0 where the demo asks for enough."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--world", action="store_true", help="the invented world, not the model")
    parser.add_argument("--port", type=int, default=8890)
    args = parser.parse_args(words)
    end_servers_when_interrupted()
    log = Path(tempfile.mkdtemp(prefix="pilothouse-memory-")) / "server.txt"
    which = ["--world"] if args.world else []
    command = [sys.executable, "-c", START, "demo", "--quiet", "--port", str(args.port), *which]
    server = Server("pilothouse demo", command, args.port, log)
    asked_gib = WORLD_GIB if args.world else SMOL_GIB
    try:
        with ExitStack() as stack:
            stack.callback(server.stop)
            memory = stack.enter_context(PeakMemory(server.family))
            server.start()
            say(f"ready after {server.seconds_to_start:.0f} s, {memory.proportional_mib:.0f} MiB")
            asyncio.run(_fill(server.url, SEATS[args.world], _vocabulary(args.world)))
            memory.sample()
    except Interrupted:
        return INTERRUPTED
    except (ServerError, httpx.HTTPError) as error:
        say(f"demo_memory: {error}")
        return WRONG_USE
    peak_gib = memory.proportional_mib / 1024
    print(
        f"peak {peak_gib:.2f} GiB in {memory.processes} processes "
        f"({memory.resident_mib / 1024:.2f} GiB with shared pages in each); the demo asks for "
        f"{asked_gib:.1f} GiB"
    )
    return GOOD if peak_gib <= asked_gib else FINDING


def _vocabulary(is_world: bool) -> tuple[str, ...]:
    if not is_world:
        return english_words()
    prompts = load_prompts()
    return tuple(sorted({*prompts.known.split(), *prompts.benign.split()}))


async def _fill(url: str, seats: int, words: tuple[str, ...]) -> None:
    limits = httpx.Limits(max_connections=seats)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits) as client:
        served = (await client.get("/v1/models")).json()["data"][0]
        cache_tokens = _cache_tokens((await client.get("/metrics")).text)
        draw = random.Random(0)

        async def ask(count: int) -> int:
            text = " ".join(draw.choice(words) for _ in range(count))
            body = {
                "model": served["id"],
                "max_tokens": ANSWER_TOKENS,
                "ignore_eos": True,
                "messages": [{"role": "user", "content": text}],
            }
            answer = await client.post("/v1/chat/completions", json=body)
            if answer.status_code != 200:
                raise ServerError(f"answered {answer.status_code}: {answer.text[:300]}")
            found: dict[str, Any] = answer.json()["usage"]
            return int(found["prompt_tokens"])

        per_word = await ask(SHORT_WORDS) / SHORT_WORDS
        count = int(FILLED * served["max_model_len"] / per_word)
        written = 0
        with progress() as phase:
            advance = phase("tokens written to the KV cache", int(cache_tokens * WRITTEN_OVER))
            while written < cache_tokens * WRITTEN_OVER:
                found = sum(await asyncio.gather(*(ask(count) for _ in range(seats))))
                written += found
                advance(found)


def _cache_tokens(text: str) -> int:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "vllm:cache_config_info":
                return int(sample.labels["num_gpu_blocks"]) * int(sample.labels["block_size"])
    raise ServerError("the server does not tell how large its KV cache is")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
