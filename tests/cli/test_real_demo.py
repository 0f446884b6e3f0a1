"""The demo on the real model, as a newcomer meets it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator

import httpx
import psutil
import pytest
from openai import OpenAI

from pilothouse.cli.prompts import smol_tour
from pilothouse.demo.smol import smol_folder
from pilothouse.demo.wheels import IndexUnreachable
from tests.support.server_process import COMMAND, ServerProcess, free_port, started

pytestmark = [pytest.mark.full, pytest.mark.server, pytest.mark.timeout(900)]

FIRST_TOKEN_SECONDS = 1.0


@pytest.fixture(scope="module")
def smol_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """`pilothouse demo` on a free port."""
    try:
        smol_folder(lambda _: None)
    except IndexUnreachable as error:
        if os.environ.get("PILOTHOUSE_REQUIRE_TOOLS"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    log, port = tmp_path_factory.mktemp("smol") / "server.txt", free_port()
    with started(["demo", "--port", str(port)], port, log, {}) as server:
        yield server


def test_it_answers_in_english_and_with_what_was_concluded(smol_server: ServerProcess) -> None:
    client = OpenAI(base_url=f"{smol_server.url}/v1", api_key="none")
    answer = client.chat.completions.create(
        model="smol", temperature=0,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
    )  # fmt: skip
    choice = answer.choices[0]
    assert choice.message.content == "The capital of France is Paris."
    assert choice.finish_reason == "stop"
    assert choice.model_extra and choice.model_extra["pilothouse"]["action"] == "allow"


def test_the_first_token_of_a_short_chat_comes_within_a_second(smol_server: ServerProcess) -> None:
    body = {
        "model": "smol", "stream": True, "max_tokens": 8, "temperature": 0,
        "messages": [{"role": "user", "content": "Hello, how are you?"}],
    }  # fmt: skip

    def first_token() -> float:
        asked = time.monotonic()
        with httpx.stream(
            "POST", f"{smol_server.url}/v1/chat/completions", json=body, timeout=60
        ) as lines:
            for line in lines.iter_lines():
                if '"content":"' in line and '"content":""' not in line:
                    return time.monotonic() - asked
        raise AssertionError("no token came")

    assert min(first_token() for _ in range(5)) < FIRST_TOKEN_SECONDS


def test_the_tour_shows_the_users_question_side_by_side(smol_server: ServerProcess) -> None:
    question = "Where do penguins live?"
    done = subprocess.run(
        [*COMMAND, "demo", "--tour", "--ask", question, "--port", str(smol_server.port)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "COLUMNS": "300"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for stop in smol_tour().stops:
        assert stop.title in done.stdout and stop.model in done.stdout
    assert question in done.stdout and "enguin" in done.stdout.replace(question, "")


def test_it_says_what_it_serves_and_what_that_takes(smol_server: ServerProcess) -> None:
    said = smol_server.log.read_text()
    assert "Q4_1 weights dequantised" in said and "GiB of memory" in said
    assert "Traceback" not in said


def test_engine_and_worker_are_one_process(smol_server: ServerProcess) -> None:
    family = psutil.Process(smol_server.pid).children(recursive=True)
    assert len(family) == 2, "the engine's process and multiprocessing's own: no worker's"
