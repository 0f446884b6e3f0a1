"""docs/explanation/request-flow.md names the folders that a streamed, steered chat passes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.servers.server_process import ServerProcess, serve_process
from tests.support.servers.tiny_deployment import SERVED_NAME

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "request-flow.md"
TRACER = Path(__file__).parents[1] / "support" / "folder_trace"
PACKAGE = Path(__file__).parents[2] / "middleware" / "pilothouse"
pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that the server's processes write to, once it is there."""
    return tmp_path_factory.mktemp("trace") / "folders.txt"


@pytest.fixture(scope="module")
def server(
    tiny_house: Path, trace: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """`pilothouse serve` on the tiny model, its functions telling their folder."""
    log = tmp_path_factory.mktemp("flow") / "server.txt"
    paths = [str(TRACER), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"FOLDER_TRACE": str(trace), "PYTHONPATH": os.pathsep.join(paths)}
    with serve_process(tiny_house, SERVED_NAME, log, **environment) as process:
        yield process


def told() -> set[str]:
    """The folders of the page's table."""
    text = PAGE.read_text(encoding="utf-8")
    rows = text.partition("<!-- rooms: begin -->")[2].partition("<!-- rooms: end -->")[0]
    return set(re.findall(r"^\| `([\w/]+)` \|", rows, re.MULTILINE))


def test_the_page_names_the_folders_that_a_request_passes(
    server: ServerProcess, trace: Path
) -> None:
    body = {
        "model": f"{SERVED_NAME}:output-late",
        "messages": [{"role": "user", "content": "hello there"}],
        "max_tokens": 12,
        "temperature": 0,
        "stream": True,
        "pilothouse": {"steer": [{"vector": "nudge", "scale": 1.0}]},
    }
    trace.touch()
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == httpx.codes.OK, answer.text
    assert "content_filter" in answer.text
    passed = set(trace.read_text(encoding="utf-8").split())
    assert passed == told()


def test_every_file_that_the_page_names_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in re.findall(r"`([\w/]+/[\w]+\.py)`", text):
        assert (PACKAGE / name).is_file(), name
