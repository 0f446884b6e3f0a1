"""The demo on the real model, as a newcomer meets it, and a slice of its cards' figures.

One server for all of it, so that a regression on a real model fails every run of the tests.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import httpx
import psutil
import pytest
from openai import OpenAI

from pilothouse.cli.prompts import smol_tour
from pilothouse.cli.tour import look, served_models
from pilothouse.demo.card import CHOOSING, TESTING
from pilothouse.demo.poles import SUBJECTS
from pilothouse.demo.questions import open_questions
from pilothouse.demo.smol import smol_folder
from pilothouse.demo.texts.sets import SETS
from pilothouse.demo.vector_card import PoleCard, VectorCard, is_beyond_controls
from pilothouse.demo.wheels import IndexUnreachable
from pilothouse.library import library_path
from pilothouse.probes.metrics import auroc
from pilothouse.probes.report import Evaluation
from pilothouse.training.pair import load_pairs
from tests.support.page_examples import curl_blocks, pasted
from tests.support.servers.server_process import COMMAND, ServerProcess, free_port, started

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

CHECKOUT = Path(__file__).resolve().parents[2]
QUICKSTART = CHECKOUT / "examples" / "quickstart.py"
FIRST_TOKEN_SECONDS = 1.0
SLICE = 16
"""How many of a card's test questions, or of a set's texts, are asked again."""
AT_ONCE = 8
CARDS = [
    VectorCard.model_validate_json(path.read_text(encoding="utf-8"))
    for path in sorted((library_path("probes/smol") / "vectors").glob("*/card.json"))
]
POLES = [
    (card, pole)
    for card in CARDS
    for pole in card.poles
    if is_beyond_controls(pole) and pole.asked == "open"
]


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
        model="smol",
        temperature=0,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
    )
    choice = answer.choices[0]
    assert choice.message.content == "The capital of France is Paris."
    assert choice.finish_reason == "stop"
    assert choice.model_extra and choice.model_extra["pilothouse"]["action"] == "allow"


def test_the_readmes_lines_steer_and_block(smol_server: ServerProcess) -> None:
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    script = readme.partition("```python\n")[2].partition("```")[0]
    assert "http://127.0.0.1:8000/v1" in script
    done = subprocess.run(
        [sys.executable, "-c", script.replace("http://127.0.0.1:8000", smol_server.url)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    said = re.search(r'begin "(.+)" and\s+"(.+)"', readme)
    assert said is not None
    plain, cheerful = said.groups()
    assert done.stdout.startswith(plain)
    assert cheerful in done.stdout and "'steered': {'cheerful': 64}" in done.stdout
    assert "I cannot help with that request. {'action': 'block'" in done.stdout
    assert "'result': 'blocked'" in done.stdout and "'result': 'would_block'" in done.stdout


def test_the_first_token_of_a_short_chat_comes_within_a_second(smol_server: ServerProcess) -> None:
    body = {
        "model": "smol",
        "stream": True,
        "max_tokens": 8,
        "temperature": 0,
        "messages": [{"role": "user", "content": "Hello, how are you?"}],
    }

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
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "COLUMNS": "300"},
    )
    assert done.returncode == 0, done.stderr
    for stop in smol_tour().stops:
        assert stop.title in done.stdout and stop.model in done.stdout
    assert done.stdout.count(question) == len(smol_tour().stops)
    assert "enguin" in done.stdout.replace(question, "")
    assert "not blocked" in done.stdout and "(NOT blocked)" not in done.stdout


def test_the_tour_on_its_own_questions_ends_with_a_refusal(smol_server: ServerProcess) -> None:
    tour, models = smol_tour(), served_models(smol_server.url)
    seen = [look(smol_server.url, tour, stop, models) for stop in tour.stops]
    assert [each.action for each in seen] == ["allow", "allow", "allow", "block"]
    assert "smol-guarded/block-misuse: blocked" in seen[-1].rules
    assert len({each.text for each in seen}) == len(seen)
    *_, guarded = tour.asking(tour.question).stops
    assert look(smol_server.url, tour, guarded, models).text.startswith(seen[0].text[:40])


def test_what_the_user_types_is_declined_in_the_last_column_alone(
    smol_server: ServerProcess,
) -> None:
    *_, own = smol_tour().stops
    tour, models = smol_tour().asking(own.prompt), served_models(smol_server.url)
    seen = [look(smol_server.url, tour, stop, models) for stop in tour.stops]
    assert [each.action for each in seen] == ["allow", "allow", "allow", "block"]


def test_a_guarded_request_is_not_steered_below_its_probe_and_another_is(
    smol_server: ServerProcess,
) -> None:
    def status(model: str) -> int:
        term = {"vector": "french", "scale": 0.1, "unit": "residual", "layers": [18]}
        body = {
            "model": model,
            "max_tokens": 1,
            "messages": [{"role": "user", "content": "Hello."}],
            "pilothouse": {"steer": [term]},
        }
        url = f"{smol_server.url}/v1/chat/completions"
        return httpx.post(url, json=body, timeout=120).status_code

    assert (status("smol"), status("smol:guarded")) == (200, 400)


def test_the_quickstart_runs(smol_server: ServerProcess) -> None:
    done = subprocess.run(
        [sys.executable, str(QUICKSTART), "--url", smol_server.url],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert "steered by a profile (smol:cheerful)" in done.stdout
    assert "(shadow): would_block" in done.stdout and "(enforce): blocked" in done.stdout


def test_it_says_what_it_serves_and_what_that_takes(smol_server: ServerProcess) -> None:
    said = smol_server.log.read_text()
    assert "Q4_1 weights dequantised" in said and "GiB of memory" in said
    assert "Traceback" not in said


def test_engine_and_worker_are_one_process(smol_server: ServerProcess) -> None:
    family = psutil.Process(smol_server.pid).children(recursive=True)
    names = [" ".join(each.cmdline()) for each in family]
    assert sum("EngineCore" in each for each in names) == 1
    assert not any("Worker" in each for each in names)


@pytest.mark.parametrize(
    "block", curl_blocks(of_the_real_model=True), ids=lambda block: str(block[:60])
)
def test_the_pages_own_curl_lines_are_answered(
    smol_server: ServerProcess, block: str, tmp_path: Path
) -> None:
    answer = json.loads(pasted(block, smol_server.port, tmp_path).stdout)
    [choice] = answer["choices"]
    assert choice["pilothouse"]["steered"], answer


@cache
def ask_all(
    url: str, model: str, questions: tuple[str, ...], max_tokens: int
) -> list[dict[str, Any]]:
    """The first choice of every answer, asked a few at a time."""

    def ask(question: str) -> dict[str, Any]:
        body = {
            "model": model,
            "temperature": 0,
            "max_tokens": max_tokens,
            "messages": [{"role": "user", "content": question}],
        }
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300)
        answer.raise_for_status()
        choice: dict[str, Any] = answer.json()["choices"][0]
        return choice

    with ThreadPoolExecutor(AT_ONCE) as together:
        return list(together.map(ask, questions))


@cache
def questions_of_the_cards() -> tuple[str, ...]:
    """The first of the open questions that the cards' figures are of."""
    pairs = library_path("examples/smol") / "pairs"
    return open_questions(
        [each for subject in SUBJECTS for each in load_pairs(pairs / f"{subject.name}.jsonl")],
        choosing=CHOOSING,
        testing=TESTING,
        seed=0,
        tell=lambda _: None,
    ).testing[:SLICE]


@pytest.mark.parametrize(("card", "pole"), POLES, ids=[pole.name for _, pole in POLES])
def test_a_profile_moves_answers_as_far_as_its_card_says(
    smol_server: ServerProcess, card: VectorCard, pole: PoleCard
) -> None:
    subject = next(each for each in SUBJECTS if each.name == card.name)
    [sign] = [each.sign for each in subject.poles if each.name == pole.name]
    score = subject.judged_by.score
    plain, steered = (
        ask_all(smol_server.url, model, questions_of_the_cards(), card.max_tokens)
        for model in ("smol", f"smol:{pole.name}")
    )
    assert not any(each["pilothouse"]["steered"] for each in plain)
    assert all(each["pilothouse"]["steered"][card.name] for each in steered)
    moved = [
        sign * (score(after["message"]["content"]) - score(before["message"]["content"]))
        for before, after in zip(plain, steered, strict=True)
    ]
    error = stdev(moved) / SLICE**0.5
    if pole.steered.effect.low > 0:  # else the card itself does not show that it moves anything
        assert fmean(moved) > 0, "the profile moves nothing"
    assert fmean(moved) + 2 * error >= pole.steered.effect.low
    assert fmean(moved) - 2 * error <= pole.steered.effect.high


def test_the_misuse_probe_tells_requests_apart_as_its_card_says(
    smol_server: ServerProcess,
) -> None:
    harmful, harmless = (
        [each.text for each in SETS[name].texts(lambda _: None)][:SLICE]
        for name in ("strongreject", "over-refusal")
    )
    scores = [
        each["pilothouse"]["scores"]["misuse/prompt"]
        for each in ask_all(smol_server.url, "smol", (*harmful, *harmless), 1)
    ]
    labels = [1] * len(harmful) + [0] * len(harmless)
    folder = library_path("probes/smol") / "probes" / "misuse"
    evaluation = Evaluation.model_validate_json((folder / "evaluation.json").read_text())
    [told] = [
        each.scores["probe"].auroc
        for each in evaluation.transfers
        if each.name == "StrongREJECT against over-refusal" and each.form == "as written"
    ]
    # The card's interval is of six times as many texts: a slice of them spreads further.
    assert auroc(scores, labels) > told.low - 3 * (told.estimate - told.low)


@pytest.mark.full
def test_the_offline_page_begins_with_a_script_that_runs(tmp_path: Path) -> None:
    path = CHECKOUT / "docs" / "get-started" / "python-api.md"
    page = path.read_text(encoding="utf-8")
    script = page.partition("```python\n")[2].partition("```")[0]
    there = 'os.path.expanduser("~/.cache/pilothouse/models/SmolLM2-135M-Instruct")'
    assert there in script
    file = tmp_path / "script.py"
    file.write_text(script.replace(there, repr(str(smol_folder(lambda _: None)))))
    done = subprocess.run(
        [sys.executable, str(file)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "'steered': {'cheerful': " in done.stdout
