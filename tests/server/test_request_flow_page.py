"""docs/explanation/request-flow.md names the folders that a streamed, steered chat passes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.request_walk import PACKAGE, TracedServer, traced_server

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "request-flow.md"
MOST_FILES = 80
"""Lower it where the walk has become shorter."""
pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(tiny_house: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TracedServer]:
    """`pilothouse serve` on the tiny model, its functions telling their file."""
    with traced_server(tiny_house, tmp_path_factory.mktemp("flow")) as process:
        yield process


def told() -> set[str]:
    """The folders of the page's table."""
    text = PAGE.read_text(encoding="utf-8")
    rows = text.partition("<!-- rooms: begin -->")[2].partition("<!-- rooms: end -->")[0]
    return set(re.findall(r"^\| `([\w/]+)` \|", rows, re.MULTILINE))


@pytest.fixture(scope="module")
def files(server: TracedServer) -> set[str]:
    """The files that run for the request, in whichever process."""
    return set().union(*server.walk().values())


def test_the_page_names_the_folders_that_a_request_passes(files: set[str]) -> None:
    assert {file.rpartition("/")[0] for file in files} - {""} == told()


def test_a_request_does_not_run_through_more_files_than_it_did(files: set[str]) -> None:
    assert len(files) <= MOST_FILES, sorted(files)


def test_every_file_that_the_page_names_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in re.findall(r"`([\w/]+/[\w]+\.py)`", text):
        assert (PACKAGE / name).is_file(), name
