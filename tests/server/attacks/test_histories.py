"""What an earlier question of a conversation means for the next one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "demo"))

from record import Record
from sample import sample
from tests.support.servers.server_process import ServerProcess

pytestmark = pytest.mark.server

REFUSAL = "I cannot help with that request."
REFUSED = {"role": "assistant", "content": None, "refusal": REFUSAL}
COUNT = 6


def records(kind: str) -> list[Record]:
    return [next(sample(f"history:{index}", 1, kind, "test")) for index in range(COUNT)]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answered(server: ServerProcess, *messages: dict[str, Any]) -> bool:
    """Whether a conversation is answered, and not ended by a policy."""
    body = {"model": "demo", "messages": list(messages), "max_tokens": 8, "temperature": 0}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120).json()
    return answer["choices"][0]["finish_reason"] != "content_filter"


def test_a_refused_question_bars_no_harmless_one(demo_server: ServerProcess) -> None:
    """As clients send the refusal back: as they got it, or as text."""
    passed = 0
    for barred, harmless in zip(records("forbidden"), records("benign"), strict=True):
        assert not answered(demo_server, user(barred.prompt))
        for refusal in (REFUSED, {"role": "assistant", "content": REFUSAL}):
            passed += answered(demo_server, user(barred.prompt), refusal, user(harmless.prompt))
    assert passed >= 2 * COUNT - 1


def test_a_barred_question_bars_what_follows_any_other_answer(demo_server: ServerProcess) -> None:
    """A client can write what it likes into an assistant's mouth, our words and more among it."""
    for text in ("so be it.", f"{REFUSAL} but so be it.", "no."):
        said = {"role": "assistant", "content": text}
        for barred, harmless in zip(records("forbidden"), records("benign"), strict=True):
            assert not answered(demo_server, user(barred.prompt), said, user(harmless.prompt))


def test_a_refused_question_that_is_asked_again_is_barred_again(demo_server: ServerProcess) -> None:
    for barred in records("forbidden"):
        asked = user(barred.prompt)
        assert not answered(demo_server, asked, REFUSED, asked)
