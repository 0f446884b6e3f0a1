"""Two servers, one with drafts and one without, give the same answers, scores and verdicts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.engines.drafters import NGRAM
from tests.support.servers.server_process import ServerProcess, serve_process
from tests.support.servers.tiny_deployment import PLAIN_PROFILE, SERVED_NAME

pytestmark = [pytest.mark.full, pytest.mark.server, pytest.mark.timeout(900)]

PROMPT = "the harbour opens at dawn and the harbour opens at dawn and the harbour"
NAMES = (
    SERVED_NAME,
    PLAIN_PROFILE,
    *(
        f"{SERVED_NAME}:{each}"
        for each in (
            "output-refusal",
            "output-late",
            "output-respond",
            "output-passes",
            "final-refusal",
        )
    ),
)


@pytest.fixture(scope="module")
def drafting(tiny_house: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("drafting") / "server.txt"
    flag = ("--speculative-config", json.dumps(NGRAM))
    with serve_process(tiny_house, SERVED_NAME, log, *flag) as running:
        yield running


def answer(server: ServerProcess, model: str) -> dict:
    body = {
        "model": model,
        "prompt": PROMPT,
        "max_tokens": 40,
        "temperature": 0.0,
        "pilothouse": {"scores": "tokens", "probes": ["vary"]},
    }
    found = httpx.post(f"{server.url}/v1/completions", json=body, timeout=120)
    assert found.status_code == 200, found.text
    [choice] = found.json()["choices"]
    return choice


@pytest.mark.parametrize("model", NAMES)
def test_a_server_with_drafts_answers_as_one_without(
    model: str, drafting: ServerProcess, small_server: ServerProcess
) -> None:
    want, got = answer(small_server, model), answer(drafting, model)
    assert (got["text"], got["finish_reason"]) == (want["text"], want["finish_reason"])
    ours, theirs = got["pilothouse"], want["pilothouse"]
    assert ours["action"] == theirs["action"] and ours["rules"] == theirs["rules"]
    assert ours.get("steered") == theirs.get("steered")
    scores, wanted = ours.get("token_scores", []), theirs.get("token_scores", [])
    assert [each["index"] for each in scores] == [each["index"] for each in wanted]
    for one, other in zip(scores, wanted, strict=True):
        assert one["token_id"] == other["token_id"]
        assert abs(one["vary"] - other["vary"]) <= 1e-5


def test_drafts_were_made_and_some_were_rejected(drafting: ServerProcess) -> None:
    answer(drafting, SERVED_NAME)
    drafts = drafting.metric("vllm:spec_decode_num_draft_tokens_total")
    accepted = drafting.metric("vllm:spec_decode_num_accepted_tokens_total")
    assert 0 < accepted < drafts
