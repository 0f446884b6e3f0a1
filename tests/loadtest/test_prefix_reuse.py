"""Prefix reuse: what is loaded reads every prompt, and figures are better where they are larger."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from pilothouse.config import load_config
from pilothouse.policy.loader import load_policies
from prefix_reuse import (
    OUTPUT_TOKENS,
    PROBES,
    AnswerError,
    Round,
    _ask,
    _config,
    _pair,
)


@pytest.mark.parametrize(("without_rows", "mib"), [(False, 256), (True, 0)])
def test_one_enforced_rule_reads_every_probe_of_the_prompt_and_of_nothing_else(
    tmp_path: Path, without_rows: bool, mib: int
) -> None:
    config = load_config(_config(tmp_path, "m", without_rows))
    [policy] = load_policies(config.policies)
    [rule] = policy.spec.rules
    assert policy.spec.mode == "enforce" and rule.phase == "prompt"
    assert len(config.probes) == len(policy.spec.signals) == PROBES
    assert config.limits.read_cache_mib == mib


def test_a_server_that_is_faster_has_the_larger_ratio() -> None:
    fast, slow = Round(0.1, 20.0), Round(0.2, 10.0)
    for figure in ("time to first token", "throughput"):
        assert _pair(figure, "plain first", slow, fast).ratio == pytest.approx(2.0)


def stream(*, tokens: int, words: int) -> httpx.MockTransport:
    """A server's stream, which cannot be had from a real one with the wrong number of tokens."""
    chunks = ['{"choices": [{"delta": {"content": "w1 "}}]}'] * words
    usage = f'{{"choices": [], "usage": {{"completion_tokens": {tokens}}}}}'
    text = "".join(f"data: {each}\n\n" for each in (*chunks, usage)) + "data: [DONE]\n\n"
    return httpx.MockTransport(lambda _: httpx.Response(200, text=text))


@pytest.mark.parametrize(("tokens", "words"), [(OUTPUT_TOKENS - 1, 3), (OUTPUT_TOKENS, 0)])
def test_a_short_or_an_empty_answer_is_no_figure(tokens: int, words: int) -> None:
    async def ask() -> None:
        async with httpx.AsyncClient(
            base_url="http://there", transport=stream(tokens=tokens, words=words)
        ) as client:
            await _ask(client, [])

    with pytest.raises(AnswerError, match="were forced"):
        asyncio.run(ask())
