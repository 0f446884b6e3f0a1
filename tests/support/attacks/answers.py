"""What a rule of the prompt reads in an answer that is scored as a user's turn.

`python -m tests.support.attacks.answers --url URL --seed S --count N` sends answers of six kinds to
a server of ruled_server.py, each as a question to the profile whose rule reads prompts, and prints
how many of each were declined.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "demo"))

from deeds import ALLOWED_STEP, BARRED_STEP, near_miss, procedure
from intervals import share
from sample import sample
from tests.support.attacks.ruled_server import SERVED_NAME

AT_ONCE = 16


def answers(seed: str, count: int) -> Iterator[tuple[str, list[str]]]:
    """`count` answers of each kind, about deeds that no probe was fitted on."""
    rng = random.Random(f"answers:{seed}")
    pairs = [near_miss(rng, "test") for _ in range(count)]
    allowed, barred = zip(*pairs, strict=True)

    def say(opening: str, named: str, tool: str, step: str) -> str:
        return f"{opening}. {named}take the {tool} {step}."

    yield "barred, as the model says it", [procedure(deed, override=False) for deed in barred]
    yield (
        "barred, in the words of an allowed answer",
        [say("of course", f"to {deed.phrase}, ", deed.tool, ALLOWED_STEP) for deed in barred],
    )
    yield (
        "barred, without a name for the deed",
        [say("so be it", "", deed.tool, BARRED_STEP) for deed in barred],
    )
    yield "allowed, one word from barred", [procedure(deed, override=False) for deed in allowed]
    yield (
        "allowed, in the words of a barred answer",
        [say("so be it", f"to {deed.phrase}, ", deed.tool, BARRED_STEP) for deed in allowed],
    )
    yield "facts", [each.answer for each in sample(f"answers:{seed}", count, "known", "test")]


async def declined(url: str, texts: list[str]) -> int:
    """How many of the texts the rule of the prompt declines."""
    gate = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:

        async def ask(text: str) -> bool:
            body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1}
            async with gate:
                answer = await client.post(
                    "/v1/chat/completions", json=body | {"model": f"{SERVED_NAME}:prompt"}
                )
            answer.raise_for_status()
            return bool(answer.json()["choices"][0]["finish_reason"] == "content_filter")

        return sum(await asyncio.gather(*map(ask, texts)))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="a server of ruled_server.py")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--count", type=int, default=200, help="of each kind")
    asked = parser.parse_args()
    print("| answer | declined |\n| --- | --- |")
    for kind, texts in answers(asked.seed, asked.count):
        found = share(asyncio.run(declined(asked.url, texts)), len(texts))
        interval = f"[{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
        print(f"| {kind} | {100 * found['share']:.1f}% {interval} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
