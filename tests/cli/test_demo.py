"""The demo as a user meets it: what it prints, what pasting that does, the tour."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from openai import OpenAI

from pilothouse.cli.prompts import load_prompts, world_tour
from pilothouse.cli.tour import look, served_models
from tests.support.servers.server_process import COMMAND, ServerProcess

pytestmark = [pytest.mark.full, pytest.mark.server, pytest.mark.timeout(900)]


def printed(server: ServerProcess) -> str:
    """All that the demo says; it speaks a moment after it answers."""
    last_line, deadline = "pilothouse demo --tour", time.monotonic() + 60
    while last_line not in server.log.read_text() and time.monotonic() < deadline:
        time.sleep(0.2)
    return server.log.read_text()


def test_the_demo_prints_where_it_is_and_what_to_paste(demo_server: ServerProcess) -> None:
    said = printed(demo_server)
    assert f"Ready on {demo_server.url}" in said
    assert said.count("curl -s") == 3 and "Traceback" not in said


def test_what_the_demo_prints_works_when_pasted(demo_server: ServerProcess, tmp_path: Path) -> None:
    said = printed(demo_server)
    script = tmp_path / "paste.sh"
    script.write_text(
        "set -e\n" + said[said.index("# an answer") : said.index("pilothouse demo --tour")]
    )
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", str(script)], capture_output=True, text=True, timeout=120, env={"PATH": path}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"decision_id"') == 3
    assert '"finish_reason":"content_filter"' in done.stdout


def test_the_tours_stops_are_what_they_are_called(demo_server: ServerProcess) -> None:
    tour, models = world_tour(), served_models(demo_server.url)
    plain, steered, blocked = (look(demo_server.url, tour, stop, models) for stop in tour.stops)
    assert plain.action in ("allow", "steer") and plain.text
    assert steered.text and steered.text != plain.text
    assert blocked.action == "block" and blocked.scores["misuse/prompt"] > 0.5


def test_the_tour_shows_all_three_from_the_running_server(demo_server: ServerProcess) -> None:
    done = subprocess.run(
        [*COMMAND, "demo", "--tour", "--port", str(demo_server.port)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "300"},
    )
    assert done.returncode == 0, done.stderr
    for word in ("plain", "steered", "blocked", "demo:cheerful", "no-misuse/block-misuse: blocked"):
        assert word in done.stdout


def test_the_demo_lets_this_machine_steer_and_see(demo_server: ServerProcess) -> None:
    client = OpenAI(base_url=f"{demo_server.url}/v1", api_key="none")
    steer = {
        "steer": [{"vector": "cheerful", "scale": 0.4, "unit": "residual"}],
        "scores": "tokens",
    }
    answer = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": load_prompts().known}],
        extra_body={"pilothouse": steer},
    )
    told = answer.choices[0].model_extra["pilothouse"]  # type: ignore[index]
    assert told["steered"]["cheerful"] > 0 and told["token_scores"]


def test_the_tour_asks_what_the_user_types(demo_server: ServerProcess) -> None:
    question = load_prompts().unknown
    done = subprocess.run(
        [*COMMAND, "demo", "--tour", "--ask", question, "--port", str(demo_server.port)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "300"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(question) == 3 and load_prompts().known not in done.stdout
    assert "not blocked" in done.stdout and "(NOT blocked)" not in done.stdout
