"""A burst: so many chat requests at once, answers of a forced length, one throughput.

The generator shares the machine with the server under load, so it does little: requests are built
before the clock starts and answers are read whole.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from scenario import Load, Profile

REQUEST_TIMEOUT_S = 600.0
ROUTE = "/v1/chat/completions"


class BurstError(RuntimeError):
    """An answer that was refused, failed, or had another length than was forced."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One burst."""

    seconds: float
    load: Load

    @property
    def tokens_per_s(self) -> float:
        """Output tokens of all answers over the time from the first request to the last answer."""
        return self.load.output_tokens / self.seconds


def bodies(
    profile: Profile, models: Sequence[str], words: Sequence[str], seed: str
) -> list[dict[str, Any]]:
    """The requests of a burst.

    Prompts depend on the seed alone: both servers of a pair get the same ones, and no two bursts
    share any, so that no prefix cache helps.
    """
    draw = random.Random(seed)
    return [
        {
            "model": models[index % len(models)],
            "messages": [
                {
                    "role": "user",
                    "content": " ".join(draw.choice(words) for _ in range(profile.prompt_words)),
                }
            ],
            "max_tokens": profile.output_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
        }
        for index in range(profile.requests)
    ]


def run_burst(url: str, requests: Sequence[dict[str, Any]]) -> Measured:
    """Send all at once and wait for all.

    Raises:
        BurstError: an answer is not a full one.
    """
    return asyncio.run(_run(url, requests))


async def _run(url: str, requests: Sequence[dict[str, Any]]) -> Measured:
    limits = httpx.Limits(max_connections=len(requests))
    async with httpx.AsyncClient(base_url=url, timeout=REQUEST_TIMEOUT_S, limits=limits) as client:
        began = time.perf_counter()
        answers = await asyncio.gather(
            *(client.post(ROUTE, json=request) for request in requests), return_exceptions=True
        )
        seconds = time.perf_counter() - began
    usages = [
        _usage(answer, request["max_tokens"])
        for answer, request in zip(answers, requests, strict=True)
    ]
    return Measured(
        seconds,
        Load(
            requests=len(usages),
            prompt_tokens=sum(each["prompt_tokens"] for each in usages),
            output_tokens=sum(each["completion_tokens"] for each in usages),
        ),
    )


def _usage(answer: httpx.Response | BaseException, output_tokens: int) -> dict[str, int]:
    if isinstance(answer, BaseException):
        raise BurstError(f"a request failed: {type(answer).__name__}: {answer}") from answer
    if answer.status_code != 200:
        raise BurstError(f"a request got {answer.status_code}: {answer.text[:500]}")
    usage: dict[str, int] = answer.json()["usage"]
    if usage["completion_tokens"] != output_tokens:
        raise BurstError(
            f"an answer has {usage['completion_tokens']} tokens, {output_tokens} were forced"
        )
    return usage
